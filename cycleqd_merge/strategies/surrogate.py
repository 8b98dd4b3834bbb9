"""What a child would score, foretold from the children that were scored: a Gaussian process per task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import minimize
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from cycleqd_merge.evolution.genome import Matrix

LATEST = 500
"""So many points are learned from, the latest: the time of a forecast grows with their square."""


class Surrogate:
    """Scores at any coefficients, given those at `points`.

    points: shape (points, dimensions). scores: shape (points, tasks). kernels: one per task, see `fitted_kernels`.
    """

    def __init__(self, points: Matrix, scores: Matrix, kernels: Sequence[Any]) -> None:
        self.points, self.scores, self._kernels = points[-LATEST:], scores[-LATEST:], kernels
        self._processes = [
            GaussianProcessRegressor(kernel, optimizer=None, normalize_y=True).fit(self.points, column)
            for kernel, column in zip(kernels, self.scores.T, strict=True)
        ]

    def __call__(self, points: Matrix) -> tuple[Matrix, Matrix]:
        """Means and standard deviations of the scores at `points`, each of shape (points, tasks)."""
        foretold = [process.predict(points, return_std=True) for process in self._processes]
        means, deviations = zip(*foretold, strict=True)
        return np.stack(means, axis=1), np.stack(deviations, axis=1)

    def believing(self, points: Matrix) -> Surrogate:
        """The same, as if what it foretells of `points` had been measured (kriging believer; Ginsbourger et al., 2010),
        so that children in flight at once do not crowd in one place."""
        if not len(points):
            return self
        means, _ = self(points)
        return Surrogate(np.vstack([self.points, points]), np.vstack([self.scores, means]), self._kernels)


def fitted_kernels(points: Matrix, scores: Matrix) -> list[Any]:
    """A Matérn 5/2 kernel per task with a length per dimension and the noise, of the greatest marginal likelihood."""
    start = ConstantKernel(1.0, (1e-2, 1e2)) * Matern(np.full(points.shape[1], 2.0), (0.2, 20.0), nu=2.5)
    start = start + WhiteKernel(0.02, (1e-4, 0.5))
    return [_fitted(start, points[-LATEST:], column[-LATEST:]) for column in scores.T]


def _fitted(start: Any, points: Matrix, scores: Matrix) -> Any:
    """As scikit-learn fits a kernel, but a length at its bound, of a dimension that does not matter, is no warning."""
    process = GaussianProcessRegressor(start, optimizer=None, normalize_y=True).fit(points, scores)

    def loss(theta: Matrix) -> tuple[float, Matrix]:
        likelihood, gradient = process.log_marginal_likelihood(theta, eval_gradient=True, clone_kernel=False)
        return -likelihood, -gradient

    found = minimize(loss, start.theta, method="L-BFGS-B", jac=True, bounds=start.bounds)
    return start.clone_with_theta(found.x)


def settled(count: int) -> int:
    """Of how many points the kernels are fitted to, where there are `count`: anew eight times while they double."""
    step = max(1, (1 << count.bit_length()) // 16)
    return count - count % step
