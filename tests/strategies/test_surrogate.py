"""Predicted scores, compared with Gaussian processes written out in plain matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cycleqd_merge.evolution.genome import Matrix
from cycleqd_merge.strategies.surrogate import LATEST, Surrogate, fitted_kernels, kernel_points


def measured(count: int, seed: int = 0) -> tuple[Matrix, Matrix]:
    """Points in three dimensions and their scores on two tasks; the third coefficient affects neither."""
    points = np.random.default_rng(seed).uniform(-0.5, 1.5, (count, 3))
    return points, np.stack([np.exp(-(points[:, 0] ** 2)), 0.5 + 0.3 * np.sin(points[:, 0] + 2 * points[:, 1])], axis=1)


def by_hand(
    kernel: Any, points: Matrix, scores: Matrix, wanted: Matrix, known: Matrix | None = None
) -> tuple[Matrix, Matrix]:
    """Means and deviations of one task at `wanted`, with the parameters of `kernel`: Rasmussen and Williams (2006),
    equations 2.25 and 2.26. The deviations include the noise, unless its variances are `known`."""
    own = kernel.k1 if known is None else kernel
    height, lengths, noise = (
        own.k1.constant_value,
        own.k2.length_scale,
        0.0 if known is not None else kernel.k2.noise_level,
    )

    def covariance(a: Matrix, b: Matrix) -> Matrix:
        far = np.sqrt(5 * (((a[:, None] - b[None]) / lengths) ** 2).sum(axis=2))
        return np.asarray(height * (1 + far + far**2 / 3) * np.exp(-far))

    middle, spread = scores.mean(), scores.std()
    diagonal = noise * np.eye(len(points)) if known is None else np.diag(known / spread**2)
    inverse = np.linalg.inv(covariance(points, points) + diagonal)
    across = covariance(wanted, points)
    means = across @ inverse @ ((scores - middle) / spread)
    variances = height + noise - np.einsum("ij,jk,ik->i", across, inverse, across)
    return spread * means + middle, spread * np.sqrt(variances)


def test_means_and_deviations_are_those_of_gaussian_processes() -> None:
    points, scores = measured(40)
    wanted, truth = measured(25, seed=1)
    kernels = fitted_kernels(points, scores)
    means, deviations = Surrogate(points, scores, kernels)(wanted)
    for task in (0, 1):
        by_task = by_hand(kernels[task], points, scores[:, task], wanted)
        np.testing.assert_allclose(means[:, task], by_task[0], atol=1e-6)
        np.testing.assert_allclose(deviations[:, task], by_task[1], atol=1e-6)
    assert np.abs(means - truth).max() < 0.1
    assert means.shape == deviations.shape == (25, 2)


def noisy(count: int) -> tuple[Matrix, Matrix, Matrix]:
    """Points, scores and the noise's variances: a tenth of the points is measured on few rows."""
    rng = np.random.default_rng(3)
    points, scores = measured(count)
    variances = np.where(rng.random(scores.shape) < 0.1, 0.04, 0.0001)
    return points, scores + np.sqrt(variances) * rng.standard_normal(scores.shape), variances


def test_known_noise_is_that_of_gaussian_processes() -> None:
    points, scores, variances = noisy(60)
    wanted, truth = measured(25, seed=1)
    kernels = fitted_kernels(points, scores, variances)
    means, deviations = Surrogate(points, scores, kernels, variances)(wanted)
    for task in (0, 1):
        by_task = by_hand(kernels[task], points, scores[:, task], wanted, variances[:, task])
        np.testing.assert_allclose(means[:, task], by_task[0], atol=1e-4)
        np.testing.assert_allclose(deviations[:, task], by_task[1], atol=1e-4)
    fitted, _ = Surrogate(points, scores, fitted_kernels(points, scores))(wanted)
    assert np.square(means - truth).mean() < np.square(fitted - truth).mean() / 2


def test_known_noise_of_equal_scores_and_believed_points() -> None:
    points, variances = np.eye(3), np.full((3, 1), 1e-4)
    scores = np.full((3, 1), 0.5)
    surrogate = Surrogate(points, scores, fitted_kernels(points, scores, variances), variances)
    after = surrogate.believing(points + 0.5)
    np.testing.assert_allclose(after(points + 0.3)[0], 0.5)
    assert (after(points + 0.5)[1] < surrogate(points + 0.5)[1]).all()
    assert after.variances is not None
    np.testing.assert_array_equal(after.variances, np.full((6, 1), 1e-4))


def test_a_dimension_without_effect_gets_a_long_length_scale() -> None:
    points, scores = measured(60)
    first, second = (kernel.k1.k2.length_scale for kernel in fitted_kernels(points, scores))
    assert first[0] < min(first[1], first[2]) / 3
    assert max(second[0], second[1]) < second[2] / 3


def test_believed_points_keep_their_mean_and_become_more_certain() -> None:
    points, scores = measured(30)
    wanted, _ = measured(4, seed=1)
    before = Surrogate(points, scores, fitted_kernels(points, scores))
    after = before.believing(wanted)
    means, deviations = before(wanted)
    again, smaller = after(wanted)
    np.testing.assert_allclose(again, means, atol=0.02)
    assert (smaller < deviations).all()
    assert before.believing(np.zeros((0, 3))) is before


def test_only_the_latest_points_are_fitted() -> None:
    points, scores = measured(LATEST + 40)
    kernels = fitted_kernels(points[:40], scores[:40])
    wanted, _ = measured(10, seed=1)
    found, latest = (Surrogate(points[n:], scores[n:], kernels)(wanted) for n in (0, 40))
    np.testing.assert_array_equal(found, latest)


def test_equal_scores_predict_the_same_score() -> None:
    points = np.eye(3)
    means, _ = Surrogate(points, np.full((3, 1), 0.5), fitted_kernels(points, np.full((3, 1), 0.5)))(points + 0.3)
    np.testing.assert_allclose(means, 0.5)


def test_kernels_are_fitted_to_almost_all_points_and_refitted_eight_times_per_doubling() -> None:
    found = [kernel_points(count) for count in range(1, 3000)]
    assert found == sorted(found)
    for count, kept in enumerate(found, start=1):
        assert count - count / 8 < kept <= count
    for count in (16, 64, 1024):
        assert len({kernel_points(each) for each in range(count, 2 * count)}) == 8


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_points_are_enough(count: int) -> None:
    points, scores = measured(count)
    means, deviations = Surrogate(points, scores, fitted_kernels(points, scores))(points)
    np.testing.assert_allclose(means, scores, atol=0.2)
    assert np.isfinite(deviations).all()
