"""Imports go down the table of docs/design.md, and the algorithm knows no models, journals or files."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def contracts() -> list[dict[str, object]]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found: list[dict[str, object]] = settings["tool"]["importlinter"]["contracts"]
    return found


def test_the_contracts_hold() -> None:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_lists_the_layers_that_are_checked() -> None:
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?) \|", page.split("## The layers")[1].split("## The genome")[0], re.MULTILINE)
    listed = [name for row in rows for name in re.findall(r"`([a-z_]+)`", row)]
    (layers,) = [contract["layers"] for contract in contracts() if contract["type"] == "layers"]
    assert isinstance(layers, list)
    checked = [name.strip() for layer in layers for name in layer.split(":")]
    assert listed == [name for name in checked if name != "__main__"]


def test_every_room_is_in_a_layer() -> None:
    (layers,) = [contract["layers"] for contract in contracts() if contract["type"] == "layers"]
    assert isinstance(layers, list)
    checked = {name.strip() for layer in layers for name in layer.split(":")}
    package = ROOT / "cycleqd_merge"
    rooms = {
        path.stem for path in package.iterdir() if (path.is_dir() and list(path.glob("*.py"))) or path.suffix == ".py"
    }
    assert rooms - {"__init__", "__pycache__"} == checked
