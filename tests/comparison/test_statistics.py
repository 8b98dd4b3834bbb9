"""Statistics, against scipy, a slow loop, Monte Carlo and hand computation."""

from __future__ import annotations

import math
import random
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cycleqd_merge.comparison.statistics import (
    Gap,
    duplicates,
    hypervolume,
    paired_bootstrap,
    search_gap,
    seeds_interval,
)
from cycleqd_merge.journal.measured import Estimate

UNIT = st.floats(0, 1)


def scored(rows: dict[str, int], seed: int) -> dict[str, np.ndarray]:
    draws = np.random.default_rng(seed)
    return {task: draws.integers(0, 4, size=count) / 3 for task, count in rows.items()}


def test_bootstrap_of_one_task_agrees_with_scipy() -> None:
    own, other = scored({"a": 150}, 1), scored({"a": 150}, 2)
    found = paired_bootstrap(own, other, seed=0, draws=20_000)
    expected = stats.bootstrap((own["a"] - other["a"],), np.mean, n_resamples=20_000, method="percentile", rng=3)
    assert found.estimate == pytest.approx(np.mean(own["a"]) - np.mean(other["a"]))
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval), abs=0.006)


def test_bootstrap_of_several_tasks_agrees_with_a_slow_loop() -> None:
    rows = {"large": 200, "small": 12}
    own, other = scored(rows, 4), scored(rows, 5)
    found = paired_bootstrap(own, other, seed=0)
    draws, slow = random.Random(6), []
    for _ in range(4000):
        means = []
        for task, count in rows.items():
            chosen = [draws.randrange(count) for _ in range(count)]
            means.append(statistics.fmean(own[task][row] - other[task][row] for row in chosen))
        slow.append(statistics.fmean(means))
    slow.sort()
    assert found.estimate == pytest.approx(
        statistics.fmean(own[task].mean() - other[task].mean() for task in rows)  # the small task counts as much
    )
    assert (found.low, found.high) == pytest.approx((slow[99], slow[3899]), abs=0.015)


def test_pairing_leaves_out_what_rows_have_in_common() -> None:
    hard = np.random.default_rng(0).random(300)
    close = paired_bootstrap({"a": hard + 0.01}, {"a": hard}, seed=0)
    apart = paired_bootstrap({"a": hard + 0.01}, {"a": hard[::-1]}, seed=0)
    assert not close.holds_zero
    assert apart.holds_zero


@given(st.lists(st.tuples(UNIT, UNIT), min_size=1, max_size=30), st.lists(st.tuples(UNIT, UNIT), min_size=1))
def test_bootstrap_is_symmetric_and_finds_no_difference_between_equals(
    first: list[tuple[float, float]], second: list[tuple[float, float]]
) -> None:
    own = {"a": [x for x, _ in first], "b": [x for x, _ in second]}
    other = {"b": [y for _, y in second], "a": [y for _, y in first]}
    found, back = (paired_bootstrap(*pair, seed=0, draws=200) for pair in ((own, other), (other, own)))
    assert (back.low, back.estimate, back.high) == pytest.approx(
        (-found.high, -found.estimate, -found.low), rel=1e-9, abs=1e-12
    )
    equal = paired_bootstrap(own, own, seed=0, draws=200)
    assert (equal.low, equal.estimate, equal.high) == (0.0, 0.0, 0.0)
    assert equal.holds_zero


def test_bootstrap_is_a_function_of_its_seed() -> None:
    own, other = scored({"a": 50}, 1), scored({"a": 50}, 2)
    assert paired_bootstrap(own, other, seed=1) == paired_bootstrap(own, other, seed=1)
    assert paired_bootstrap(own, other, seed=1) != paired_bootstrap(own, other, seed=2)


def test_bootstrap_in_parts_draws_all_it_should() -> None:
    rows = 2000  # 10 000 draws of them are made in 20 parts
    values = np.random.default_rng(0).normal(size=rows)
    found = paired_bootstrap({"a": values}, {"a": np.zeros(rows)}, seed=0)
    error = values.std() / math.sqrt(rows)
    assert (found.low, found.high) == pytest.approx(
        (values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.1 * error
    )


@pytest.mark.parametrize(
    ("own", "other"),
    [({}, {}), ({"a": [1.0]}, {"b": [1.0]}), ({"a": [1.0]}, {"a": [1.0, 0.0]}), ({"a": []}, {"a": []})],
)
def test_what_cannot_be_paired_is_refused(own: dict[str, list[float]], other: dict[str, list[float]]) -> None:
    with pytest.raises(ValueError, match="cannot pair"):
        paired_bootstrap(own, other, seed=0)


@given(st.lists(UNIT, min_size=2, max_size=8).filter(lambda values: statistics.stdev(values) > 1e-6))
def test_interval_over_seeds_is_students(values: list[float]) -> None:
    found = seeds_interval(values)
    expected = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    assert found is not None
    assert (found.low, found.high) == pytest.approx(expected)


def test_one_seed_has_no_interval() -> None:
    assert seeds_interval([0.4]) is None


def test_gap_is_large_above_two_errors_of_the_difference() -> None:
    assert search_gap(Estimate(0.5, 0.03, 90), Estimate(0.4, 0.04, 90)) == Gap(pytest.approx(0.1), pytest.approx(0.05))
    assert [Gap(difference, 0.05).large for difference in (-0.2, 0.099, 0.101)] == [False, False, True]
    unknown = search_gap(Estimate(0.5, None, 1), Estimate(0.1, 0.01, 90))
    assert (unknown.error, unknown.large) == (None, False)


@given(st.integers(1, 5).flatmap(lambda tasks: st.lists(st.tuples(*[UNIT] * tasks), min_size=1, max_size=6)))
def test_hypervolume_is_inclusion_and_exclusion(points: list[tuple[float, ...]]) -> None:
    expected = 0.0
    for chosen in range(1, 2 ** len(points)):
        shared = [point for place, point in enumerate(points) if chosen >> place & 1]
        expected += (-1) ** (len(shared) + 1) * math.prod(map(min, zip(*shared, strict=True)))
    assert hypervolume(points) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("tasks", [2, 3, 4, 6])
def test_hypervolume_of_many_points_agrees_with_monte_carlo(tasks: int) -> None:
    draws = np.random.default_rng(tasks)
    points = draws.random((60, tasks)) ** 2
    thrown = draws.random((200_000, tasks))
    inside = np.zeros(len(thrown), bool)
    for point in points:
        inside |= (thrown <= point).all(axis=1)
    assert hypervolume(points) == pytest.approx(inside.mean(), abs=4 * math.sqrt(0.25 / len(thrown)))


@given(st.lists(st.tuples(UNIT, UNIT, UNIT), max_size=20), st.tuples(UNIT, UNIT, UNIT))
def test_hypervolume_never_shrinks(points: list[tuple[float, ...]], further: tuple[float, ...]) -> None:
    assert hypervolume([*points, further]) >= hypervolume(points) - 1e-12


def test_hypervolume_is_measured_from_the_reference() -> None:
    assert hypervolume([(0.75, 0.5), (0.2, 0.9)], reference=0.25) == pytest.approx(0.5 * 0.25)
    assert hypervolume([]) == 0.0


def test_duplicates_are_counted_by_content_whatever_the_order_of_columns() -> None:
    search = [{"question": "a", "answer": 1}, {"question": "b", "answer": 2}]
    heldout = [
        {"answer": 1, "question": "a"},
        {"question": "a", "answer": 1},
        {"question": "a", "answer": 2},
        {"question": "b", "answer": "2"},
    ]
    assert duplicates(search, heldout) == 2
