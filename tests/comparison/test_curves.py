"""Curves of a run, against quantities computed from the scores directly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cycleqd_merge.comparison.curves import Curve, curve, filled_archives
from cycleqd_merge.comparison.statistics import hypervolume
from cycleqd_merge.evolution.archive import Scores
from tests.evolution.references import SlowArchive

UNIT = st.floats(0, 1)
BOUNDS, BINS = ((0.0, 1.0), (0.1, 0.8)), (4, 3)
SCORES = st.lists(st.none() | st.tuples(UNIT, UNIT), max_size=30)


@given(SCORES, st.integers(1, 12))
def test_values_at_each_point_are_those_of_the_scores_so_far(evaluated: list[Scores | None], points: int) -> None:
    found = curve(evaluated, BOUNDS, BINS, points)
    for place, evaluations in enumerate(found.evaluations):
        known = [scores for scores in evaluated[:evaluations] if scores is not None]
        slow = [SlowArchive(task, BOUNDS, list(BINS)) for task in range(2)]
        for archive in slow:
            for number, scores in enumerate(known):
                archive.add(number, scores)
        assert found.best_mean[place] == pytest.approx(max(np.mean(scores) for scores in known))
        assert found.hypervolume[place] == pytest.approx(hypervolume(known))
        qualities = [scores[archive.task] for archive in slow for _, scores in archive.cells.values()]
        assert found.qd_score[place] == pytest.approx(sum(qualities))
    assert all(list(values) == sorted(values) for values in (found.best_mean, found.coverage, found.qd_score))


@given(SCORES, st.integers(2, 12))
def test_points_run_from_the_first_scores_to_the_last_evaluation(evaluated: list[Scores | None], points: int) -> None:
    found = curve(evaluated, BOUNDS, BINS, points)
    if all(scores is None for scores in evaluated):
        assert found == Curve((), (), (), (), ())
    else:
        first = next(number for number, scores in enumerate(evaluated, start=1) if scores is not None)
        assert (found.evaluations[0], found.evaluations[-1]) == (first, len(evaluated))
        assert len(found.evaluations) <= points
        assert np.all(np.diff(found.evaluations) > 0)


def test_the_end_of_a_curve_is_what_the_filled_archives_hold() -> None:
    evaluated: list[Scores | None] = [(0.2, 0.3, 0.9), None, (0.7, 0.3, 0.9), (0.1, 0.6, 0.9)]  # the third task is kept
    found, archives = curve(evaluated, BOUNDS, BINS), filled_archives(evaluated, BOUNDS, BINS)
    assert found.qd_score[-1] == pytest.approx((0.7 + 0.1) + (0.6 + 0.3))
    assert [[elite.number for elite in archive.elites()] for archive in archives] == [[2, 3], [3, 2]]
    assert found.coverage[-1] == pytest.approx(np.mean([archive.coverage for archive in archives]))
    assert found.best_mean == (0.25, 0.25, 0.5, 0.5)
