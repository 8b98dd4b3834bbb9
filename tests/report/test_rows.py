"""What the report says from the outcomes of rows: paired differences, exact errors, and rows that nobody solves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from cycleqd_merge.report.page import render_page
from cycleqd_merge.report.row_coverage import row_coverage
from cycleqd_merge.report.scores import compare_best, usual_scores
from cycleqd_merge.report.summary import summary
from cycleqd_merge.run.state import Run, open_run
from tests.run.row_pool import ROWS, RowPool
from tests.run.synthetic import run, synthetic_recipe


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("rows")
    run(folder, synthetic_recipe(20), in_flight=2, pool=RowPool())
    return open_run(folder)


def test_errors_of_search_scores_are_those_of_the_rows(opened: Run) -> None:
    best = next(model for model in usual_scores(opened) if model.name == "best-mean")
    for task, estimate in best.search.items():
        rows = opened.outcomes(opened.best_mean())[task].scores
        assert estimate.error == pytest.approx(scipy.stats.sem(rows))
        assert (estimate.score, estimate.samples) == (pytest.approx(rows.mean()), ROWS)


def test_the_best_elite_is_compared_with_the_best_expert_row_by_row(opened: Run) -> None:
    found = compare_best(usual_scores(opened), opened.objectives)
    assert found is not None
    assert found.interval is not None
    assert found.split == "search"
    baseline = opened.experts.index(found.baseline.removeprefix("expert:"))
    differences = [
        opened.outcomes(opened.best_mean())[task].scores - opened.outcomes(baseline)[task].scores
        for task in opened.objectives
    ]
    assert found.difference == pytest.approx(np.mean([each.mean() for each in differences]))
    error = np.sqrt(sum(scipy.stats.sem(each) ** 2 for each in differences)) / len(differences)
    assert found.interval == pytest.approx(
        (found.difference - 1.96 * error, found.difference + 1.96 * error), abs=0.005
    )
    assert error < (found.error or 0)  # the same rows are hard for both


def test_rows_that_no_elite_solves(opened: Run) -> None:
    merged = [number for number in opened.elites() if number >= 3]
    for found in row_coverage(opened):
        by_expert = np.any([opened.outcomes(number)[found.task].scores for number in range(3)], axis=0)
        by_merged = np.any([opened.outcomes(number)[found.task].scores for number in merged], axis=0)
        assert found.rows == ROWS
        assert (found.experts, found.merged) == (by_expert.sum(), by_merged.sum())
        assert found.best == opened.outcomes(opened.best_mean())[found.task].scores.sum()
        assert set(found.lost) == {*np.flatnonzero(by_expert)} - {*np.flatnonzero(by_merged)}
        assert set(found.unsolved) == {*range(ROWS)} - {*np.flatnonzero(by_expert)} - {*np.flatnonzero(by_merged)}
    assert [found.task for found in row_coverage(opened)] == opened.objectives
    assert list(summary(opened)["row_coverage"]) == opened.objectives
    page = render_page(opened, "run")
    assert 'id="row-coverage"' in page
    assert "paired by row" in page


def test_runs_without_outcomes_have_no_coverage_of_rows(tmp_path: Path) -> None:
    older = run(tmp_path, synthetic_recipe(4))
    assert row_coverage(older) == []
    assert "row_coverage" not in summary(older)
    assert 'id="row-coverage"' not in render_page(older, "run")
