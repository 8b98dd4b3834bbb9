"""CPU seconds (user and system) of commands that must respond immediately, with their limits.

    python benchmarks/startup.py [--runs 5] [--run DIRECTORY]

Without `--run`, `show` is measured on a run of synthetic scores: three tasks, 60 generations.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
COMMAND_LINE = ["-c", "from cycleqd_merge.cli import main; main()"]
TYPO = [str(ROOT / "recipes" / "quickstart.yaml"), "--set", "evolution.generation=3"]


@dataclass(frozen=True)
class Case:
    """Arguments of the Python interpreter, the exit code that they must give, and a limit in CPU seconds."""

    arguments: list[str]
    limit: float | None
    code: int = 0


def cases(run: Path) -> dict[str, Case]:
    """The commands to measure, by name."""
    return {
        "python -c pass": Case(["-c", "pass"], None),
        "import cycleqd_merge": Case(["-c", "import cycleqd_merge"], 0.3),
        "cycleqd-merge --help": Case([*COMMAND_LINE, "--help"], 0.5),
        "evolve, a typo in a key": Case([*COMMAND_LINE, "evolve", *TYPO], 1.5, 2),
        "plan, a typo in a key": Case([*COMMAND_LINE, "plan", *TYPO], 1.5, 2),
        "compare, a typo in a key": Case([*COMMAND_LINE, "compare", *TYPO], 1.5, 2),
        "show RUN": Case([*COMMAND_LINE, "show", str(run)], 2.5),
    }


def cpu_seconds(case: Case) -> float:
    """User and system seconds of one new process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = subprocess.run([sys.executable, *case.arguments], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if ended.returncode != case.code:
        raise SystemExit(f"{case.arguments} ended with {ended.returncode}, not {case.code}: {ended.stderr}")
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def synthetic_run(folder: Path) -> Path:
    """A run without models."""
    sys.path.insert(0, str(ROOT))
    from tests.report.runs import make_run

    make_run(folder, tasks=3, generations=60)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--run", type=Path, help="run directory to show")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measured = cases(options.run or synthetic_run(Path(folder)))
        taken: dict[str, list[float]] = {name: [] for name in measured}
        for _ in range(options.runs):  # in turn, so that a busy moment affects all of them
            for name, case in measured.items():
                taken[name].append(cpu_seconds(case))
    table = Table(title=f"CPU seconds, {options.runs} runs each")
    for heading in ("command", "minimum", "median", "limit", "kept"):
        table.add_column(heading, justify="left" if heading in ("command", "kept") else "right")
    for name, each in taken.items():
        limit, median = measured[name].limit, statistics.median(each)
        kept = "" if limit is None else "yes" if median < limit else "NO"
        table.add_row(name, f"{min(each):.2f}", f"{median:.2f}", "" if limit is None else f"{limit:.1f}", kept)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
