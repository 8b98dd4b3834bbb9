"""The notebook runs as it does in Jupyter, inside an event loop that is already running, and has stored outputs."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import tempfile
from pathlib import Path
from types import CodeType
from typing import Any

import matplotlib
import pytest

DOCS = Path(__file__).parents[2] / "docs"
NOTEBOOK = DOCS / "notebook.ipynb"


def code_cells() -> list[dict[str, Any]]:
    """The notebook's code cells."""
    return [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


async def run_cells() -> dict[str, Any]:
    """Run all cells in one scope, on this event loop; returns the scope, with the last expression as `_`."""
    scope: dict[str, Any] = {}
    for cell in code_cells():
        tree = ast.parse("".join(cell["source"]))
        if isinstance(tree.body[-1], ast.Expr):
            tree.body[-1] = ast.Assign([ast.Name("_", ast.Store())], tree.body[-1].value)
        code: CodeType = compile(ast.fix_missing_locations(tree), "cell", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        if inspect.isawaitable(awaited := eval(code, scope)):
            await awaited
    return scope


def test_the_notebook_runs_inside_an_event_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(DOCS)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    matplotlib.use("agg")
    scope = asyncio.run(run_cells())
    assert scope["run"].generation == 12
    assert not [event for event in scope["run"].results if event["scores"] is None]
    assert "<table>" in scope["run"]._repr_html_()
    assert len(scope["_"]) == 5


def test_the_stored_outputs_are_complete_and_name_no_machine() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < 100_000
    assert "/tmp/" not in text
    assert "/home/" not in text
    cells = code_cells()
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    kinds = [output["output_type"] for cell in cells for output in cell["outputs"]]
    assert "error" not in kinds
    assert kinds.count("display_data") == 1
    assert kinds.count("execute_result") == 4
