"""Keep the small part of runs under tests/data/frozen, as its README shows: `python -m tests.frozen.freeze RUNS ROOT`.

RUNS: the folder with the runs and what was printed and exported of them. ROOT: the checkout that made them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from tests.frozen.records import arithmetic, exported, heldout, portable, untimed, versions

DATA = Path(__file__).parents[1] / "data" / "frozen"


def freeze(runs: Path, root: Path) -> None:
    """Write the kept part of every run in `runs`."""
    torch.set_num_threads(1)
    for folder in sorted(path.parent for path in runs.glob("*/journal.jsonl")):
        if not folder.name.endswith("-extended"):
            _freeze(folder, root)
    made_on = {"versions": versions(), "arithmetic": arithmetic(root / "recipes" / "quickstart" / "models")}
    _write(DATA / "made_on.json", made_on, indent=1)


def _freeze(run: Path, root: Path) -> None:
    def read(path: Path) -> str:
        return portable(path.read_text(), root, run.with_name(f"{run.name}-extended"), run)

    def beside(suffix: str) -> Path:
        return run.with_name(run.name + suffix)

    out = DATA / run.name
    out.mkdir(parents=True, exist_ok=True)
    lines = read(beside("-extended") / "journal.jsonl").splitlines(keepends=True)
    sessions = [place for place, line in enumerate(lines) if line.startswith('{"event":"session"')]
    (out / "journal.jsonl").write_text("".join(lines[: sessions[-1]]))
    (out / "extension.jsonl").write_text("".join(lines[sessions[-1] :]))
    _write(out / "show.json", json.loads(read(beside(".show.json"))))
    _write(out / "best-mean.json", json.loads(read(beside(".best.json"))))
    _write(out / "extended.json", untimed(json.loads(read(beside(".extended.show.json")))))
    exports = {name: exported(beside(f"-{name}"), root) for name in ("best-mean", "aggregate")}
    _write(out / "exports.json", exports)
    if beside(".heldout.json").exists():
        _write(out / "heldout.json", heldout(json.loads(read(beside(".heldout.json")))), indent=1)


def _write(path: Path, value: Any, indent: int | None = None) -> None:
    path.write_text(json.dumps(value, indent=indent, separators=(",", ":") if indent is None else None) + "\n")


if __name__ == "__main__":
    freeze(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
