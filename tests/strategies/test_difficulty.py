"""Rows chosen by difficulty, on outcomes of item-response models (Rasch), whose full scores are known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from cycleqd_merge.strategies.difficulty import LATEST, LEAST, Difficulties, FirstRows
from cycleqd_merge.strategies.racing import Partial, Race

ROWS, SHARE = 240, 0.25


def outcomes(models: int, seed: int, spread: float = 2.0) -> NDArray[np.float64]:
    """Scores of 0 and 1 of models with different abilities, shape (models, ROWS); spread: of the difficulties."""
    difficulties = spread * np.random.default_rng(5).standard_normal(ROWS)
    rng = np.random.default_rng(seed)
    abilities = rng.normal(0.5, 1.0, (models, 1))
    return (rng.random((models, ROWS)) < 1 / (1 + np.exp(difficulties - abilities))).astype(np.float64)


def learned(*tasks: NDArray[np.float64]) -> Difficulties:
    found = Difficulties()
    for scores in zip(*tasks, strict=True):
        found.learn(scores)
    return found


def test_too_few_models_choose_no_rows() -> None:
    assert learned(outcomes(LEAST - 1, 0)).first_rows(SHARE) == ()
    assert len(learned(outcomes(LEAST, 0), outcomes(LEAST, 1)).first_rows(SHARE)) == 2


@pytest.mark.parametrize("share", [0.05, 0.25, 0.3, 0.9])
def test_one_row_of_every_level_of_difficulty_is_chosen(share: float) -> None:
    scores = outcomes(30, 0)
    (found,) = learned(scores).first_rows(share)
    count = round(share * ROWS)
    assert list(found.places) == sorted(set(found.places))
    assert len(found.places) == count
    means = scores.mean(axis=0)
    for level in np.unique(means):
        assert abs((means[list(found.places)] <= level).mean() - (means <= level).mean()) <= 1 / count
    assert learned(scores).first_rows(share) == (found,)


def test_their_mean_is_nearer_to_the_full_score_than_that_of_random_rows() -> None:
    (found,) = learned(outcomes(40, 0)).first_rows(SHARE)
    others, rng = outcomes(1000, 1), np.random.default_rng(2)
    full = others.mean(axis=1)
    chosen = np.square(others[:, list(found.places)].mean(axis=1) - full).mean()
    drawn = [np.square(others[:, rng.permutation(ROWS)[:60]].mean(axis=1) - full).mean() for _ in range(20)]
    assert chosen < 0.6 * np.mean(drawn)
    assert 0.5 <= found.variance < 0.85


def test_rows_without_differences_in_difficulty_are_no_better_than_random_ones() -> None:
    found = [learned(outcomes(40, seed, spread=0.0)).first_rows(SHARE)[0].variance for seed in range(8)]
    assert np.mean(found) > 0.85


@pytest.mark.parametrize(("models", "spread"), [(10, 2.0), (40, 2.0), (40, 0.0)])
def test_intervals_hold_as_often_as_they_claim(models: int, spread: float) -> None:
    held, narrower = [], []
    for seed in range(60):
        (found,) = learned(outcomes(models, seed, spread)).first_rows(SHARE)
        for scores in outcomes(50, 100 + seed, spread):
            partial = Partial(float(scores[list(found.places)].mean()), 60, ROWS, found.variance)
            low, high = partial.interval(0.95)
            held.append(low <= scores.mean() <= high)
            plain = Partial(partial.mean, 60, ROWS).interval(0.95)
            narrower.append((high - low) / (plain[1] - plain[0]))
    assert np.mean(held) >= 0.93
    assert (np.mean(narrower) < 0.9) == (spread > 0)


def test_only_the_latest_models_count() -> None:
    early, late = outcomes(50, 0), outcomes(LATEST, 1)
    assert learned(np.vstack([early, late])).first_rows(SHARE) == learned(late).first_rows(SHARE)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.3])
def test_rows_of_equal_scores_are_chosen_at_random(value: float) -> None:
    (found,) = learned(np.full((LEAST, 7), value)).first_rows(SHARE)
    assert len(found.places) == 2
    assert 0.5 <= found.variance <= 1.0


def test_all_rows_leave_no_variance_to_measure() -> None:
    (found,) = learned(outcomes(LEAST, 0)[:, :2]).first_rows(0.9)
    assert found == FirstRows((0, 1), 1.0)


def test_a_race_takes_the_chosen_rows() -> None:
    chosen = FirstRows((1, 5), 0.7), FirstRows((0, 2))
    race = Race(SHARE, 0.99, (), (), chosen)
    assert (race.first(0, 8), race.first(1, 8)) == chosen
