"""The surrogate: predicts the scores of unevaluated candidates by a Gaussian process per task, from scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cycleqd_merge.evolution.genome import Matrix

LATEST = 500
"""Number of points, the latest, that are fitted: the time of a prediction grows with their square."""


class Surrogate:
    """Predicts scores at any coefficients from the scores at `points`.

    points: shape (points, dimensions). scores: shape (points, tasks). kernels: one per task, see `fitted_kernels`.
    """

    def __init__(self, points: Matrix, scores: Matrix, kernels: Sequence[Any]) -> None:
        self.points, self.scores, self._kernels = points[-LATEST:], scores[-LATEST:], kernels
        self._processes = [
            _process(kernel).fit(self.points, column) for kernel, column in zip(kernels, self.scores.T, strict=True)
        ]

    def __call__(self, points: Matrix) -> tuple[Matrix, Matrix]:
        """Means and standard deviations of the predicted scores at `points`, each of shape (points, tasks)."""
        predictions = [process.predict(points, return_std=True) for process in self._processes]
        means, deviations = zip(*predictions, strict=True)
        return np.stack(means, axis=1), np.stack(deviations, axis=1)

    def believing(self, points: Matrix) -> Surrogate:
        """A surrogate that takes its own predictions at `points` as measured (kriging believer; Ginsbourger et al.,
        2010), so that children in flight at the same time do not cluster."""
        if not len(points):
            return self
        means, _ = self(points)
        return Surrogate(np.vstack([self.points, points]), np.vstack([self.scores, means]), self._kernels)


def fitted_kernels(points: Matrix, scores: Matrix) -> list[Any]:
    """A kernel per task, Matérn 5/2 with a length scale per dimension plus noise, of maximum marginal likelihood."""
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    start = ConstantKernel(1.0, (1e-2, 1e2)) * Matern(np.full(points.shape[1], 2.0), (0.2, 20.0), nu=2.5)
    start = start + WhiteKernel(0.02, (1e-4, 0.5))
    return [_fitted(start, points[-LATEST:], column[-LATEST:]) for column in scores.T]


def _fitted(start: Any, points: Matrix, scores: Matrix) -> Any:
    """Fit a kernel like scikit-learn, but without its warning about length scales of dimensions without effect."""
    from scipy.optimize import minimize

    process = _process(start).fit(points, scores)

    def loss(theta: Matrix) -> tuple[float, Matrix]:
        likelihood, gradient = process.log_marginal_likelihood(theta, eval_gradient=True, clone_kernel=False)
        return -likelihood, -gradient

    found = minimize(loss, start.theta, method="L-BFGS-B", jac=True, bounds=start.bounds)
    return start.clone_with_theta(found.x)


def _process(kernel: Any) -> Any:
    """A Gaussian process over standardised scores, with a fixed kernel."""
    from sklearn.gaussian_process import GaussianProcessRegressor  # late: only Bayesian optimisation needs it

    return GaussianProcessRegressor(kernel, optimizer=None, normalize_y=True)


def kernel_points(count: int) -> int:
    """The number of points, out of `count`, that the kernels are fitted to: it changes eight times per doubling."""
    step = max(1, (1 << count.bit_length()) // 16)
    return count - count % step
