"""Statistics, against scipy, a slow loop, Monte Carlo and hand computation."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cycleqd_merge.comparison.statistics import (
    Gap,
    chance_of_a_false_difference,
    hypervolume,
    rows_and_seeds_interval,
    search_gap,
    seeds_interval,
    spread_over_seeds,
)
from cycleqd_merge.journal.measured import Estimate
from cycleqd_merge.report.paired import Interval, paired_bootstrap

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
    assert (found.low, found.high) == pytest.approx((max(expected[0], 0.0), min(expected[1], 1.0)))


def test_one_seed_has_no_interval() -> None:
    assert seeds_interval([0.4]) is None


ROWS = Interval(0.1, 0.07, 0.14)


@given(*[st.lists(UNIT, min_size=2, max_size=8).filter(lambda values: statistics.stdev(values) > 1e-6)] * 2)
def test_the_part_over_seeds_is_welchs(own: list[float], other: list[float]) -> None:
    expected = stats.ttest_ind(own, other, equal_var=False).confidence_interval(0.95)
    half = spread_over_seeds(own, other)
    assert half == pytest.approx((expected.high - expected.low) / 2)
    found = rows_and_seeds_interval(ROWS, own, other)
    assert found is not None
    assert found.low == pytest.approx(max(0.1 - math.hypot(0.03, half), -1.0))
    assert found.high == pytest.approx(min(0.1 + math.hypot(0.04, half), 1.0))


def test_a_model_without_seeds_adds_no_spread() -> None:
    own = [0.5, 0.52, 0.57]
    half = stats.t.ppf(0.975, 2) * stats.sem(own)
    for pair in ((own, ()), ((), own)):
        found = rows_and_seeds_interval(ROWS, *pair)
        assert found == Interval(
            0.1, pytest.approx(0.1 - math.hypot(0.03, half)), pytest.approx(0.1 + math.hypot(0.04, half))
        )


@pytest.mark.parametrize(("own", "other"), [((), ()), ((0.4,), ()), ((0.4,), (0.4, 0.5)), ((0.4, 0.5), (0.4,))])
def test_an_unknown_spread_over_seeds_gives_no_interval(own: tuple[float, ...], other: tuple[float, ...]) -> None:
    assert rows_and_seeds_interval(ROWS, own, other) is None


@given(*[st.lists(UNIT, min_size=2, max_size=6)] * 2, UNIT, UNIT, UNIT)
def test_intervals_of_scores_and_differences_stay_within_what_is_possible(
    own: list[float], other: list[float], first: float, second: float, third: float
) -> None:
    low, middle, high = sorted(2 * value - 1 for value in (first, second, third))
    rows = Interval(middle, low, high)
    both, mean = rows_and_seeds_interval(rows, own, other), seeds_interval(own)
    assert both is not None
    assert mean is not None
    assert -1.0 <= both.low <= low + 1e-12  # never narrower than over rows alone
    assert high - 1e-12 <= both.high <= 1.0
    assert 0.0 <= mean.low <= mean.high <= 1.0


def coverage(seeds: int, other_seeds: int, spread: float, interval: Callable[..., Interval | None]) -> float:
    """The share of simulated comparisons whose interval holds the true difference, 0.1.

    The seeds of a strategy differ by `spread`; rows differ by 0.3 in difficulty, which both share, by 0.2 in how well
    they suit either strategy, and by 0.1 for each seed.
    """
    draws, inside, repeats, rows = np.random.default_rng(seeds), 0, 400, 60
    for _ in range(repeats):
        difficulty, scored = draws.normal(0.5, 0.3, rows), []
        for count, mean in ((seeds, 0.1), (other_seeds or 1, 0.0)):
            suited = difficulty + mean + draws.normal(0, 0.2, rows)
            of_seed = draws.normal(0, spread if other_seeds or mean else 0.0, (count, 1))
            scored.append(suited + of_seed + draws.normal(0, 0.1, (count, rows)))
        found = interval(scored[0], scored[1] if other_seeds else scored[1][:1], bool(other_seeds))
        inside += found is not None and found.low <= 0.1 <= found.high
    return inside / repeats


def over_rows_alone(own: np.ndarray, other: np.ndarray, seeded: bool) -> Interval:
    return paired_bootstrap({"a": own.mean(axis=0)}, {"a": other.mean(axis=0)}, draws=400)


def over_both(own: np.ndarray, other: np.ndarray, seeded: bool) -> Interval | None:
    rows = over_rows_alone(own, other, seeded)
    return rows_and_seeds_interval(rows, own.mean(axis=1).tolist(), other.mean(axis=1).tolist() if seeded else ())


def by_drawing_seeds_too(own: np.ndarray, other: np.ndarray, seeded: bool) -> Interval:
    """The plain bootstrap over rows and seeds."""
    draws = np.random.default_rng(0)
    means = []
    for _ in range(300):
        rows = draws.integers(own.shape[1], size=own.shape[1])
        chosen = (side[draws.integers(len(side), size=len(side))].mean(axis=0)[rows].mean() for side in (own, other))
        means.append(float(np.subtract(*chosen)))
    return Interval(0.0, *map(float, np.quantile(means, (0.025, 0.975))))


@pytest.mark.parametrize("spread", [0.0, 0.03, 0.15])
@pytest.mark.parametrize("others", [True, False], ids=["strategies", "a fixed model"])
@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_intervals_over_rows_and_seeds_cover_the_truth(seeds: int, others: bool, spread: float) -> None:
    assert 0.92 <= coverage(seeds, seeds if others else 0, spread, over_both) <= 1.0


def test_other_intervals_do_not() -> None:
    """Over rows alone, and by a bootstrap that also draws seeds: two seeds show it half of their variance."""
    assert coverage(2, 2, 0.15, over_rows_alone) < 0.6
    assert coverage(2, 2, 0.15, by_drawing_seeds_too) < 0.85


def test_the_chance_of_a_false_difference_is_that_of_independent_intervals() -> None:
    assert chance_of_a_false_difference(1) == pytest.approx(0.05)
    draws = np.random.default_rng(0).random((200_000, 8)) < 0.05
    assert chance_of_a_false_difference(8) == pytest.approx(draws.any(axis=1).mean(), abs=0.005)


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
