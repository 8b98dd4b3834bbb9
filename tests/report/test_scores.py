"""Scores of a run's models, from the journal and recomputed here."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

import pytest

from cycleqd_merge.journal.log import of_kind, read_events
from cycleqd_merge.journal.measured import Estimate
from cycleqd_merge.report.scores import ModelScores, ScoreTable, compare_best, mean_of, usual_scores
from tests.report.runs import HELDOUT, ROWS, make_run, measure_heldout


def test_search_scores_are_the_journals_with_the_error_of_their_rows(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    results = {event["number"]: event["scores"] for event in of_kind(read_events(tmp_path), "result")}
    scored = {model.name: model for model in usual_scores(run)}
    assert list(scored) == ["base", "expert:sql", "expert:bash", "expert:math", "mean", "best-mean", "aggregate"]
    for name, number in {"expert:sql": 0, "expert:bash": 1, "expert:math": 2, "best-mean": run.best_mean()}.items():
        assert scored[name].number == number
        assert [estimate.score for estimate in scored[name].search.values()] == results[number]
        for estimate in scored[name].search.values():
            variance = estimate.score * (1 - estimate.score) / (ROWS["search"] - 1)
            assert (estimate.error, estimate.samples) == (pytest.approx(math.sqrt(variance)), ROWS["search"])
    assert all(not scored[name].search for name in ("base", "mean", "aggregate"))
    assert not any(model.heldout for model in scored.values())


def test_held_out_scores_belong_to_the_model_not_to_its_name(tmp_path: Path) -> None:
    make_run(tmp_path, generations=10)
    run = measure_heldout(tmp_path, HELDOUT)
    scored = {model.name: model.heldout for model in usual_scores(run)}
    for name, samples in HELDOUT.items():
        assert {task: e.score for task, e in scored[name].items()} == dict.fromkeys(
            run.tasks, statistics.fmean(samples)
        )
    before = run.best_mean()
    later = make_run(tmp_path, generations=80)
    assert later.best_mean() != before  # another model bears the name now, and was not measured
    assert not {model.name: model.heldout for model in usual_scores(later)}["best-mean"]


def test_a_run_without_elites_has_scores_of_its_founders_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path, generations=0, failure=lambda number: "broken" if number == 1 else None)
    scored = {model.name: model for model in usual_scores(run)}
    assert scored["expert:bash"].search == {}
    assert scored["expert:sql"].search


def test_the_mean_over_tasks_adds_independent_errors() -> None:
    estimates = {"a": Estimate(0.2, 0.03, 10), "b": Estimate(0.4, 0.04, 10), "kept": Estimate(1.0, 0.5, 10)}
    mean = mean_of(estimates, ["a", "b"])
    assert mean is not None
    assert (mean.score, mean.error) == (pytest.approx(0.3), pytest.approx(0.05 / 2))
    assert mean_of(estimates, ["a", "lacking"]) is None


def test_a_score_table_has_a_row_per_scored_model_and_knows_the_best() -> None:
    models = {
        "base": {"a": Estimate(0.2, 0.03, 10), "b": Estimate(0.4, 0.04, 20), "kept": Estimate(1.0, None, 1)},
        "unscored": {},
        "partly": {"a": Estimate(0.5, 0.1, 12)},
    }
    table = ScoreTable.of(models, ["a", "b", "kept"], ["a", "b"])
    assert [row.model for row in table.rows] == ["base", "partly"]
    assert table.rows[0].mean == mean_of(models["base"], ["a", "b"])
    assert table.rows[0].scores == (0.2, 0.4, 1.0, pytest.approx(0.3))
    assert table.rows[1].scores == (0.5, None, None, None)
    assert table.best == (0.5, 0.4, 1.0, pytest.approx(0.3))
    assert [table.samples(place) for place in range(3)] == [{10, 12}, {20}, {1}]
    assert ScoreTable.of({"unscored": {}}, ["a"], ["a"]).best == ()


def test_bare_scores_make_the_same_table() -> None:
    table = ScoreTable.of_scores({"one": (0.5, 0.25, 1.0), "two": (0.25, 0.25, 0.0)}, ["a", "b", "kept"], ["a", "b"])
    assert [row.scores for row in table.rows] == [(0.5, 0.25, 1.0, 0.375), (0.25, 0.25, 0.0, 0.25)]
    assert all(estimate is not None and estimate.error is None for row in table.rows for estimate in row.tasks)


def model(name: str, search: float, heldout: float | None) -> ModelScores:
    held = {} if heldout is None else {"a": Estimate(heldout, 0.03, 100)}
    return ModelScores(name, None, {"a": Estimate(search, 0.04, 50)}, held)


def test_the_best_elite_is_compared_with_the_best_baseline() -> None:
    scored = [model("base", 0.9, 0.1), model("mean", 0.2, 0.5), model("best-mean", 0.8, 0.58), model("aggregate", 1, 1)]
    found = compare_best(scored, ["a"])
    assert found is not None
    assert (found.baseline, found.split, found.difference) == ("mean", "heldout", pytest.approx(0.08))
    assert found.error == pytest.approx(math.hypot(0.03, 0.03))
    assert not found.clear
    without = compare_best([model("base", 0.1, 0.9), model("best-mean", 0.8, None)], ["a"])
    assert without is not None
    assert (without.split, without.baseline, without.clear) == ("search", "base", True)
    assert compare_best([model("base", 0.1, 0.9)], ["a"]) is None
