"""Races of children: every strategy can use them, and resumes with the rows and estimates that the journal records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.journal.log import Event
from cycleqd_merge.run.state import Run, open_run
from cycleqd_merge.strategies.difficulty import LEAST
from tests.run.row_pool import ROWS, RowPool
from tests.run.synthetic import EXPERTS, run, synthetic_recipe

STRATEGIES: list[dict[str, Any]] = [
    {"kind": "cycleqd"},
    {"kind": "random", "low": 0.0, "high": 1.0},
    {"kind": "cma-es", "population": 6},
    {"kind": "cma-me", "population": 6},
    {"kind": "nsga2", "population": 6},
    {"kind": "bayesian", "noise": "rows"},
    {"kind": "bayesian", "bred": 0.5},
]


BEST = {"share": 0.1, "best": 3}


def recipe(generations: int, strategy: dict[str, Any], **stated: Any) -> Recipe:
    race = {"share": 0.25, "confidence": 0.9, "rows": "difficulty", **stated}
    tasks = [{"task": name, "expert": name, "bins": 1} for name in EXPERTS]
    return synthetic_recipe(generations, tasks=tasks, strategy=strategy, evolution={"race": race})


def scored_rows(opened: Run, event: Event) -> list[list[int]]:
    outcomes = opened.outcomes(event["number"])
    return [np.flatnonzero(outcomes[task].scored).tolist() for task in opened.tasks]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: "-".join(map(str, strategy.values())))
def test_every_strategy_races_and_resumes_the_same(tmp_path: Path, strategy: dict[str, Any]) -> None:
    if strategy["kind"] == "nsga2":
        pytest.importorskip("pymoo")
    whole = run(tmp_path / "whole", recipe(40, strategy), 2, RowPool())
    censored = [event for event in whole.results if event.get("censored")]
    assert censored
    for generations in (7, 40):
        parts = run(tmp_path / "parts", recipe(generations, strategy), 2, RowPool(generations))
    assert parts.steps == whole.steps
    assert [event.get("outcomes") for event in parts.results] == [event.get("outcomes") for event in whole.results]
    opened = open_run(tmp_path / "whole")
    chosen = set()
    for event in censored:
        number = event["number"]
        assert opened.search.estimated(number) == tuple(event["partial"])
        assert len(opened.search.variances(number)) == len(EXPERTS)
        assert [len(rows) for rows in scored_rows(opened, event)] == [ROWS // 4] * len(EXPERTS)
        chosen.add(str(scored_rows(opened, event)))
        assert number not in opened.elites()
    if censored[-1]["number"] > LEAST + 4:
        assert len(chosen) > 1 or len(censored) == 1  # the difficulties are those of the models so far


def test_random_rows_are_the_same_for_every_child(tmp_path: Path) -> None:
    raced = run(tmp_path, recipe(40, {"kind": "cycleqd"}, rows="random"), 1, RowPool())
    censored = [event for event in raced.results if event.get("censored")]
    assert len({str(scored_rows(raced, event)) for event in censored}) == 1


def test_recipes_without_the_keys_choose_random_rows_and_keep_what_may_enter_an_archive() -> None:
    race = synthetic_recipe(evolution={"race": {}}).evolution.race
    assert race is not None
    assert (race.rows, race.best) == ("random", None)
    with pytest.raises(ValidationError, match="requires `rows: difficulty`"):
        synthetic_recipe(evolution={"race": {"best": 1}})


@pytest.mark.parametrize(
    "strategy", [{"kind": "cma-es", "population": 6}, {"kind": "cycleqd"}], ids=lambda s: s["kind"]
)
def test_only_the_best_so_far_are_scored_on_all_rows(tmp_path: Path, strategy: dict[str, Any]) -> None:
    raced = run(tmp_path, recipe(60, strategy, **BEST), 1, RowPool())
    events, tasks = raced.results, raced.tasks
    first = next(event["number"] for event in events if event.get("censored"))
    assert first >= LEAST
    rows = scored_rows(raced, events[first])
    assert [len(places) for places in rows] == [ROWS // 10] * len(EXPERTS)

    means_of_complete: list[float] = []
    for event in events:
        outcomes = raced.outcomes(event["number"])
        means = [outcomes[task].scores[places].mean() for task, places in zip(tasks, rows, strict=True)]
        if event["number"] >= LEAST:
            assert bool(event.get("censored")) == (np.mean(means) <= sorted(means_of_complete)[-3])
        if event.get("censored"):
            assert scored_rows(raced, event) == rows
        else:
            means_of_complete.append(float(np.mean(means)))
    complete = [event["number"] for event in events if event["scores"] is not None]
    assert LEAST < len(complete) < 30
    assert {raced.best_mean(), *raced.elites()} <= set(complete)


def test_a_search_that_keeps_only_the_best_resumes_the_same(tmp_path: Path) -> None:
    once = run(tmp_path / "whole", recipe(50, STRATEGIES[2], **BEST), 2, RowPool())
    for generations in (9, 23, 50):
        again = run(tmp_path / "parts", recipe(generations, STRATEGIES[2], **BEST), 2, RowPool(generations))
    assert again.steps == once.steps
    assert [event.get("outcomes") for event in again.results] == [event.get("outcomes") for event in once.results]
