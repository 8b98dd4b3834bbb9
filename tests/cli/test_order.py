"""A recipe whose experts or tasks are reordered is not the recipe of the run that it names, for any command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cycleqd_merge.journal.log import JOURNAL_FILE
from cycleqd_merge.run.state import open_run
from tests.cli.conftest import Answer, CliRun, cycleqd_merge


def stated(finished: CliRun) -> dict[str, Any]:
    """The recipe, with its relative paths resolved."""
    recipe: dict[str, Any] = json.loads(finished.recipe.read_text())
    for use in recipe["tasks"]:
        use["task"] = str(finished.recipe.parent / use["task"])
    return recipe


def reordered(finished: CliRun, key: str) -> str:
    """The value of a recipe's key with its entries reversed, as JSON."""
    value = stated(finished)[key]
    return json.dumps(value[::-1] if isinstance(value, list) else dict(reversed(value.items())))


@pytest.fixture
def copied(finished: CliRun, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(finished.folder, tmp_path / "run", ignore=shutil.ignore_patterns("lock")))


NAMES = {"experts": "first, second -> second, first", "tasks": "vowels, letters -> letters, vowels"}


@pytest.mark.parametrize("key", NAMES)
@pytest.mark.parametrize("named_by", ["recipe", "folder"])
@pytest.mark.parametrize("command", [("evolve", "--generations", 6), ("plan", "--no-measure")])
def test_a_run_is_resumed_only_in_its_order(
    finished: CliRun, copied: Path, command: tuple[str, ...], named_by: str, key: str
) -> None:
    before = (copied / JOURNAL_FILE).read_bytes()
    what = finished.recipe if named_by == "recipe" else copied
    more = ("--set", f"{key}={reordered(finished, key)}", "--output", copied)
    answer = cycleqd_merge(command[0], what, *command[1:], *more)
    assert answer.code == 2
    assert f"order of {key}: {NAMES[key]}" in answer.err
    assert "restore the recorded order to resume this one" in answer.err
    assert (copied / JOURNAL_FILE).read_bytes() == before


def fork(source: Path, out: Path, *settings: str) -> Answer:
    options = [option for setting in settings for option in ("--set", setting)]
    return cycleqd_merge("fork", source, out, *options, "--set", "evolution.generations=1")


def test_a_fork_keeps_the_order_of_the_experts(finished: CliRun, copied: Path, tmp_path: Path) -> None:
    answer = fork(copied, tmp_path / "fork", f"experts={reordered(finished, 'experts')}")
    assert answer.code == 2
    assert answer.err.startswith(f"error: order of experts: {NAMES['experts']}: a fork keeps the run's order")
    assert not (tmp_path / "fork").exists()


def test_a_fork_with_reordered_tasks_keeps_each_score_with_its_task(
    finished: CliRun, copied: Path, tmp_path: Path
) -> None:
    answer = fork(copied, tmp_path / "fork", f"tasks={reordered(finished, 'tasks')}")
    assert (answer.code, answer.err) == (0, "")

    def scores(folder: Path) -> dict[str, dict[str, float]]:
        """By genome, the scores by task of all elites."""
        run = open_run(folder)
        pairs = ((run.search.genome(number), run.scores(number)) for number in run.elites())
        return {genome.dumps(): dict(zip(run.tasks, values, strict=True)) for genome, values in pairs}

    before, now = scores(copied), scores(tmp_path / "fork")
    shared = before.keys() & now.keys()
    assert len(shared) > 2
    assert {genome: before[genome] for genome in shared} == {genome: now[genome] for genome in shared}
