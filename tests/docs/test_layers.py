"""Imports go down the table of docs/design.md, the algorithm knows no models, journals or files, and a public name is
defined once.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
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
    """import-linter's `exhaustive` does not see a folder without `__init__.py`."""
    (layers,) = [contract["layers"] for contract in contracts() if contract["type"] == "layers"]
    assert isinstance(layers, list)
    checked = {name.strip() for layer in layers for name in layer.split(":")}
    package = ROOT / "cycleqd_merge"
    rooms = {
        path.stem for path in package.iterdir() if (path.is_dir() and list(path.glob("*.py"))) or path.suffix == ".py"
    }
    assert rooms - {"__init__", "__pycache__"} == checked


def test_a_public_name_is_defined_once() -> None:
    places = defaultdict(list)
    for path in sorted((ROOT / "cycleqd_merge").rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith(
                "_"
            ):
                places[node.name].append(str(path.relative_to(ROOT)))
    assert len(places) > 500
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}
