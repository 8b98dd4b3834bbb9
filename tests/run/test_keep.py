"""Tasks to keep: no axis in the archives, a score in every report, and a floor for new elites and chosen models."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from cycleqd_merge.journal.log import Journal
from cycleqd_merge.run.confirm import confirm
from cycleqd_merge.run.loop import evaluate_generations, resume_journal
from cycleqd_merge.run.state import Run
from tests.cli.conftest import cycleqd_merge
from tests.run.synthetic import EXPERTS, SyntheticPool, Watcher, run, session_of, start_of, synthetic_recipe
from tests.run.test_confirm import Strict

OBJECTIVES = [{"task": name, "expert": name, "bins": 6} for name in EXPERTS[:2]]


def kept(floor: float | None) -> dict[str, object]:
    """The third task without an archive of its own."""
    return {"task": EXPERTS[2], "role": "keep", **({} if floor is None else {"floor": floor})}


def held(state: Run) -> list[int]:
    """Elites other than experts."""
    return [number for number in state.elites() if number >= len(EXPERTS)]


def test_a_score_to_report_changes_nothing_of_the_search(tmp_path: Path) -> None:
    plain, reported = (
        run(tmp_path / name, synthetic_recipe(40, tasks=tasks))
        for name, tasks in (("plain", OBJECTIVES), ("reported", [kept(None), *OBJECTIVES]))
    )
    assert reported.steps == plain.steps
    assert reported.elites() == plain.elites()
    assert [archive.bounds for archive in reported.archives] == [archive.bounds for archive in plain.archives]
    assert len(reported.archives) == 2
    assert reported.tasks == [*EXPERTS[:2], EXPERTS[2]]
    table = cycleqd_merge("show", tmp_path / "reported").out
    number = reported.best_of(0)
    row = next(line for line in table.splitlines() if f"#{number} " in line)
    assert [float(cell) for cell in row.split("│")[3:6]] == pytest.approx(reported.scores(number), abs=5e-4)
    assert cycleqd_merge("show", tmp_path / "reported", "--json").json["below_floor"] == 0


def test_a_floor_applies_to_every_child_that_enters_and_every_model_that_is_chosen(tmp_path: Path) -> None:
    free = run(tmp_path / "free", synthetic_recipe(60, tasks=[*OBJECTIVES, kept(None)]))
    scores = sorted(free.scores(number)[2] for number in held(free))
    floor = scores[len(scores) // 2]
    assert scores[0] < floor
    floored = run(tmp_path / "floored", synthetic_recipe(60, tasks=[*OBJECTIVES, kept(floor)]))
    assert held(floored)
    assert min(floored.scores(number)[2] for number in held(floored)) >= floor
    below = sum(event["scores"][2] < floor for event in floored.results)
    assert below > 0
    assert cycleqd_merge("show", tmp_path / "floored", "--json").json["below_floor"] == below
    assert f"{below} below a floor, best mean" in cycleqd_merge("show", tmp_path / "floored").out
    chosen = [floored.best_mean(), *(floored.best_of(task) for task in range(2))]
    assert min(floored.scores(number)[2] for number in chosen) >= floor


def test_a_floor_that_nothing_holds_leaves_the_experts_to_choose_from(tmp_path: Path) -> None:
    state = run(tmp_path, synthetic_recipe(20, tasks=[*OBJECTIVES, kept(1.0)]))
    assert held(state) == []
    assert state.best_mean() in range(len(EXPERTS))


def test_a_floor_applies_to_the_confirmation_split_too(tmp_path: Path) -> None:
    """An elite that reached the floor by luck is not chosen while another one reaches it on all rows."""
    recipe = synthetic_recipe(30, tasks=[*OBJECTIVES, kept(0.15)], confirm={"top": 6})
    rows = {"search": 10, "confirm": 30, "heldout": 40}
    start = {**start_of(recipe, 2), "tasks": {name: {"rows": rows} for name in EXPERTS}}
    with closing(Journal(tmp_path)) as journal:
        state = resume_journal(journal, start, session_of(recipe))
        pool: SyntheticPool = Strict()
        evaluate_generations(journal, state, pool, Watcher())
        confirm(journal, state, pool)
    judged = {number: state.judged(number)[2] for number in state.confirmed}
    assert min(judged.values()) < 0.15 <= max(judged.values())
    assert judged[state.best_mean()] >= 0.15
