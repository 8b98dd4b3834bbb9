"""The surrogate: predicts the scores of unevaluated candidates by a Gaussian process per task, from scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cycleqd_merge.evolution.genome import Matrix

LATEST = 500
"""Number of points, the latest, that are fitted: the time of a prediction grows with their square."""
_JITTER, _LEAST_NOISE = 1e-10, 1e-6
"""Added to the variances of standardised scores, for a stable decomposition: with a fitted noise, and with a known."""


class Surrogate:
    """Predicts scores at any coefficients from the scores at `points`.

    points: shape (points, dimensions). scores: shape (points, tasks). kernels: one per task, see `fitted_kernels`.
    variances: of the scores' noise, shape (points, tasks); None if the kernels have a fitted noise.
    """

    def __init__(self, points: Matrix, scores: Matrix, kernels: Sequence[Any], variances: Matrix | None = None) -> None:
        self.points, self.scores, self._kernels = points[-LATEST:], scores[-LATEST:], kernels
        self.variances = None if variances is None else variances[-LATEST:]
        self._processes = [
            _process(kernel, column, noise).fit(self.points, column)
            for kernel, column, noise in zip(kernels, self.scores.T, _columns(self.variances, kernels), strict=True)
        ]

    def __call__(self, points: Matrix) -> tuple[Matrix, Matrix]:
        """Means and standard deviations of the predicted scores at `points`, each of shape (points, tasks).

        A fitted noise is part of the deviations, a known one is not.
        """
        predictions = [process.predict(points, return_std=True) for process in self._processes]
        means, deviations = zip(*predictions, strict=True)
        return np.stack(means, axis=1), np.stack(deviations, axis=1)

    def believing(self, points: Matrix) -> Surrogate:
        """A surrogate that takes its own predictions at `points` as measured (kriging believer; Ginsbourger et al.,
        2010), so that children in flight at the same time do not cluster. Their noise is the mean of the others'."""
        if not len(points):
            return self
        means, _ = self(points)
        variances = self.variances
        if variances is not None:
            variances = np.vstack([variances, np.tile(variances.mean(axis=0), (len(points), 1))])
        return Surrogate(np.vstack([self.points, points]), np.vstack([self.scores, means]), self._kernels, variances)


def fitted_kernels(points: Matrix, scores: Matrix, variances: Matrix | None = None) -> list[Any]:
    """A kernel per task, Matérn 5/2 with a length scale per dimension, of maximum marginal likelihood.

    The kernel includes noise, unless the variances of the scores are known, shape (points, tasks).
    """
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    start = ConstantKernel(1.0, (1e-2, 1e2)) * Matern(np.full(points.shape[1], 2.0), (0.2, 20.0), nu=2.5)
    if variances is None:
        start = start + WhiteKernel(0.02, (1e-4, 0.5))
    else:
        variances = variances[-LATEST:]
    columns = zip(scores[-LATEST:].T, _columns(variances, scores.T), strict=True)
    return [_fitted(start, points[-LATEST:], column, noise) for column, noise in columns]


def _columns(variances: Matrix | None, tasks: Sequence[Any] | Matrix) -> Sequence[Matrix | None]:
    return [None] * len(tasks) if variances is None else list(variances.T)


def _fitted(start: Any, points: Matrix, scores: Matrix, variances: Matrix | None) -> Any:
    """Fit a kernel like scikit-learn, but without its warning about length scales of dimensions without effect."""
    from scipy.optimize import minimize

    process = _process(start, scores, variances).fit(points, scores)

    def loss(theta: Matrix) -> tuple[float, Matrix]:
        likelihood, gradient = process.log_marginal_likelihood(theta, eval_gradient=True, clone_kernel=False)
        return -likelihood, -gradient

    found = minimize(loss, start.theta, method="L-BFGS-B", jac=True, bounds=start.bounds)
    return start.clone_with_theta(found.x)


def _process(kernel: Any, scores: Matrix, variances: Matrix | None) -> Any:
    """A Gaussian process over standardised scores, with a fixed kernel; both arrays have shape (points,)."""
    from sklearn.gaussian_process import GaussianProcessRegressor  # late: only Bayesian optimisation needs it

    noise = _JITTER if variances is None else variances / (scores.var() or 1.0) + _LEAST_NOISE
    return GaussianProcessRegressor(kernel, alpha=noise, optimizer=None, normalize_y=True)


def kernel_points(count: int) -> int:
    """The number of points, out of `count`, that the kernels are fitted to: it changes eight times per doubling."""
    step = max(1, (1 << count.bit_length()) // 16)
    return count - count % step
