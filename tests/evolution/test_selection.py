"""Parents are selected by elite sampling, as the paper describes it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cycleqd_merge.evolution.draws import generator
from cycleqd_merge.evolution.selection import (
    binned_weights,
    choose_parents,
    elite_weights,
    published_weights,
    uniform_weights,
)

SCORES = st.integers(1, 4).flatmap(
    lambda tasks: st.lists(st.tuples(*[st.integers(0, 20).map(lambda n: n / 20)] * tasks), min_size=1, max_size=30)
)


def slow_elite_weights(scores: list[tuple[float, ...]], low: float, high: float) -> list[float]:
    """Each task's scores scaled to [low, high], multiplied over the tasks, divided by their sum."""
    columns = list(zip(*scores, strict=True))
    products = []
    for row in scores:
        product = 1.0
        for score, column in zip(row, columns, strict=True):
            worst, best = min(column), max(column)
            product *= high if best == worst else low + (high - low) * (score - worst) / (best - worst)
        products.append(product)
    return [product / math.fsum(products) for product in products]


@given(SCORES)
def test_weights_are_those_of_the_paper(scores: list[tuple[float, ...]]) -> None:
    found = elite_weights(np.array(scores), 0.5, 0.8)
    assert found.tolist() == pytest.approx(slow_elite_weights(scores, 0.5, 0.8), rel=1e-12)
    assert found.sum() == pytest.approx(1.0)


def test_the_best_outweighs_the_worst_by_the_ratio_of_the_factors() -> None:
    weights = elite_weights(np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]), 0.5, 0.8)
    assert weights[1] / weights[0] == pytest.approx((0.8 / 0.5) ** 3)


def slow_published_weights(qualities: list[float], cells: list[tuple[int, ...]]) -> list[float]:
    """The rule of the published code, one elite after another: the quality as it is, and the cell's bin numbers.

    Each is moved to 0.5 + 0.8 x its share of the way from the lowest to the highest; one without a spread is left out.
    """
    products = []
    for quality, cell in zip(qualities, cells, strict=True):
        product = 1.0
        for own, all_of_them in [(quality, qualities), *zip(cell, zip(*cells, strict=True), strict=True)]:
            low, high = min(all_of_them), max(all_of_them)
            if low != high:
                product *= 0.5 + (own - low) * 0.8 / (high - low)
        products.append(product)
    return [product / math.fsum(products) for product in products]


@given(SCORES, st.data())
def test_published_weights_are_those_of_the_published_code(
    scores: list[tuple[float, ...]], data: st.DataObject
) -> None:
    """The quality is not binned, and the other tasks are."""
    quality = data.draw(st.integers(0, len(scores[0]) - 1))
    bins = [tuple(int(score * 7) for score in row) for row in scores]
    cells = [tuple(place for task, place in enumerate(row) if task != quality) for row in bins]
    found = published_weights(np.array(scores), np.array(bins), quality, 0.5, 0.8)
    assert found.tolist() == pytest.approx(slow_published_weights([row[quality] for row in scores], cells), rel=1e-12)


def test_published_weights_tell_qualities_of_the_same_bin_apart() -> None:
    scores, bins = np.array([[0.50, 0.1], [0.55, 0.9]]), np.array([[2, 0], [2, 4]])
    assert published_weights(scores, bins, 0, 0.5, 0.8) == pytest.approx([0.25 / 1.94, 1.69 / 1.94])
    assert binned_weights(bins, 0.5, 0.8) == pytest.approx([0.5 / 1.8, 1.3 / 1.8])


def test_binned_weights_are_those_of_bins_scaled_to_the_published_range() -> None:
    bins = np.array([[0, 4], [2, 2], [4, 0], [4, 4]])
    wanted = np.array([0.5 * 1.3, 0.9 * 0.9, 1.3 * 0.5, 1.3 * 1.3])
    np.testing.assert_allclose(binned_weights(bins, 0.5, 0.8), wanted / wanted.sum())


def test_random_sampling_weighs_all_equally() -> None:
    assert uniform_weights(np.zeros((4, 2))).tolist() == [0.25] * 4


def test_a_single_elite_is_its_own_mate() -> None:
    assert choose_parents(np.array([17]), np.array([1.0]), generator(0)) == (17, 17)


@given(st.integers(2, 8), st.integers(0, 1000))
def test_parents_are_two_different_elites(elites: int, seed: int) -> None:
    numbers = np.arange(elites) * 10
    first, second = choose_parents(numbers, np.full(elites, 1 / elites), generator(seed))
    assert first != second
    assert {first, second} <= set(numbers.tolist())


def test_pairs_are_as_frequent_as_their_weights() -> None:
    """The second parent is drawn from the others by their weights: P(i, j) = p_i p_j / (1 - p_i)."""
    p = elite_weights(np.array([[0.1, 0.9], [0.5, 0.5], [0.9, 0.1], [0.8, 0.9]]), 0.1, 0.9)
    rng, draws = generator("pairs"), 20_000
    found = dict.fromkeys(itertools.permutations(range(4), 2), 0)
    for _ in range(draws):
        found[choose_parents(np.arange(4), p, rng)] += 1
    wanted = [draws * p[i] * p[j] / (1 - p[i]) for i, j in found]
    assert stats.chisquare(list(found.values()), wanted).pvalue > 0.001
    assert stats.chisquare(list(found.values())).pvalue < 1e-9  # the weights differ
