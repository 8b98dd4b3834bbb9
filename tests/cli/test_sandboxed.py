"""Recipes with a task that needs a sandbox: errors before a run, and a sandbox that fails during one."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cycleqd_merge.journal.log import of_kind, read_events
from cycleqd_merge.sandbox.providers import sandbox_for
from tests.cli.conftest import Models, cycleqd_merge, write_recipe, write_task


@pytest.fixture
def recipe(tmp_path: Path, models: Models) -> Path:
    """A recipe whose second task is to write functions."""
    problem = {"entry_point": "one", "prompt": '"""Give one."""', "canonical_solution": "def one():\n    return 1\n"}
    rows = [{"task_id": f"Mine/{n}", "base_input": [[]], "plus_input": [], "atol": 0, **problem} for n in range(8)]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"rows": {"path": "problems.jsonl"}}
    code = {"kind": "code", "data": data, "prompt": "{{ prompt }}", "max_new_tokens": 2}
    tasks = [
        {"task": write_task(tmp_path, "vowels").name, "expert": "first", "bounds": [0.0, 1.0]},
        {"name": "functions", "task": code, "expert": "second", "bounds": [0.0, 1.0]},
    ]
    return write_recipe(tmp_path, models, tasks=tasks, confirm={"share": 0})


@pytest.fixture
def bwrap(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The first folder on the search path; its bwrap fails while a file `broken` exists in it."""
    real = shutil.which("bwrap")
    sandbox_for.cache_clear()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "bwrap").write_text(
            f'#!/bin/sh\n[ -e {name}/broken ] && echo out of order >&2 && exit 9\nexec {real} "$@"\n'
        )
        (folder / "bwrap").chmod(0o755)
        monkeypatch.setenv("PATH", name, prepend=":")
        yield folder
    sandbox_for.cache_clear()


@pytest.mark.needs("bubblewrap")
def test_the_plan_shows_the_environment_of_a_task(recipe: Path) -> None:
    answer = cycleqd_merge("plan", recipe, "--no-measure", "--json")
    assert answer.code == 0
    shown = {task["name"]: task["environment"] for task in answer.json["tasks"]}
    assert shown["functions"].startswith("bubblewrap, Python 3.")
    assert shown["vowels"] == ""
    assert "bubblewrap, Python 3." in " ".join(cycleqd_merge("plan", recipe, "--no-measure").out.split())


@pytest.mark.needs("bubblewrap")
def test_prompts_that_do_not_fit_are_reported_before_a_run(recipe: Path) -> None:
    answer = cycleqd_merge("plan", recipe, "--no-measure", "--set", "tasks.1.task.max_new_tokens=100000")
    assert answer.code == 2
    assert answer.err.startswith("error: task functions: 8 of 8 rows do not fit the model's ")


def test_nothing_starts_without_a_sandbox(recipe: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sandbox_for.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    message = "error: task functions: sandbox: bwrap is not installed: `sudo apt-get install bubblewrap`"
    for command in ("plan", "evolve"):
        answer = cycleqd_merge(command, recipe)
        assert answer.code == 2
        assert answer.err.startswith(message)
    assert of_kind(read_events(tmp_path / "run"), "result") == []


@pytest.mark.needs("bubblewrap")
def test_a_sandbox_failure_pauses_the_run_and_is_never_a_score(recipe: Path, bwrap: Path, tmp_path: Path) -> None:
    assert cycleqd_merge("evolve", recipe, "--generations", 1).code == 0
    before = of_kind(read_events(tmp_path / "run"), "result")
    (bwrap / "broken").touch()
    answer = cycleqd_merge("evolve", recipe, "--generations", 3)
    assert (answer.code, answer.err) == (1, "error: sandbox: cannot start a program: out of order\n")
    assert of_kind(read_events(tmp_path / "run"), "result") == before
    (bwrap / "broken").unlink()
    assert cycleqd_merge("evolve", recipe, "--generations", 3).code == 0
    results = of_kind(read_events(tmp_path / "run"), "result")
    assert len(results) == 5
    assert all(result["scores"] is not None for result in results)
