"""Bayesian optimisation over `Coordinates`: every child is the best of many candidates by their predicted scores."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import log
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cycleqd_merge.evolution.draws import generator
from cycleqd_merge.evolution.genome import Matrix
from cycleqd_merge.strategies.optimisers import DIGITS
from cycleqd_merge.strategies.protocol import Proposal
from cycleqd_merge.strategies.state import Insertion, SearchState
from cycleqd_merge.strategies.surrogate import Surrogate, fitted_kernels, kernel_points

CANDIDATES, REFINED, ROUNDS, KEPT = 600, 200, 2, 10
"""Unevaluated candidates per child, variations of the best of these per round, rounds, and the number of the best."""
STEPS = (0.03, 0.4)
"""Least and greatest standard deviation of a candidate's coefficients around those of the model that it varies."""

Aim = Literal["mean", "front"]
Noise = Literal["fitted", "rows"]
"""See `BayesianConfig.noise`."""
Acquisition = Callable[[Matrix], NDArray[np.float64]]
"""Values of candidates, shape (candidates,), by the upper bounds of their scores, shape (candidates, tasks)."""


class Bayesian:
    """See `Emitter`. A surrogate predicts scores from all unmutated models evaluated so far.

    Candidates are judged by upper confidence bounds, `optimism` standard deviations above the predicted means. Children
    alternate between two aims: the highest mean score, and the largest gain in hypervolume over all scores so far
    (SMS-EGO; Ponweiser et al., 2008).
    """

    def __init__(self, state: SearchState, optimism: float, seed: int, noise: Noise = "fitted") -> None:
        self.state, self._optimism, self._noise, self._seed = state, optimism, noise, seed
        self._kernels: tuple[int, list[Any]] = (0, [])

    def emit(self, number: int, recorded: Matrix | None = None) -> Proposal:
        """See `Emitter.emit`: one scored expert is enough to predict from."""
        aim: Aim = "front" if (number - self.state.first) % 2 else "mean"
        child = self._best_candidate(number, aim) if recorded is None else recorded
        coordinates, point = self.state.coordinates, child.round(DIGITS)
        return self.state.propose(number, coordinates.genome(point), {**coordinates.step(point), "aim": aim})

    def learn(self, number: int, insertion: Insertion) -> None:
        """See `Emitter.learn`: everything is learned from the state."""

    def _best_candidate(self, number: int, aim: Aim) -> Matrix:
        points, scores, variances, complete = self._evaluated()
        surrogate = self._surrogate(points, scores, variances)
        points, scores = points[complete], scores[complete]  # racing's estimates are only predicted from
        acceptable = np.array([self.state.meets_floors(tuple(each)) for each in scores])
        if acceptable.any():  # models below a floor are predicted from, but neither varied nor part of the front
            points, scores = points[acceptable], scores[acceptable]
        objectives = scores[:, : len(self.state.objectives)]
        acquisition: Acquisition = _mean
        if aim == "front":
            best = _front(objectives)
            acquisition = partial(_added_hypervolume, objectives[best])
        else:
            best = np.argsort(-objectives.mean(axis=1), kind="stable")[:KEPT]
        return self._maximise(surrogate, acquisition, points[best], generator(self._seed, number, "bayesian"))

    def _evaluated(self) -> tuple[Matrix, Matrix, Matrix | None, NDArray[np.bool_]]:
        """Points and scores of the genomes evaluated so far that have one (`Coordinates.point`), in order of number,
        the scores' variances if they are known and wanted, and whether the scores are of all rows."""
        coordinates = self.state.coordinates
        evaluated = [
            (point, scores or estimated, self.state.variances(number), scores is not None)
            for number, (candidate, scores) in enumerate(self.state.results())
            if (estimated := self.state.estimated(number)) is not None or scores is not None
            if (point := coordinates.point(candidate)) is not None
        ]
        points, scores, variances, complete = zip(*evaluated, strict=True)
        known = self._noise == "rows" and all(variances)
        return np.array(points), np.array(scores), np.array(variances) if known else None, np.array(complete)

    def _surrogate(self, points: Matrix, scores: Matrix, variances: Matrix | None) -> Surrogate:
        """A surrogate fitted to the models evaluated so far, and to its own predictions for those in flight."""
        count = kernel_points(len(points))
        if self._kernels[0] != count:
            known = None if variances is None else variances[:count]
            self._kernels = count, fitted_kernels(points[:count], scores[:count], known)
        coordinates = self.state.coordinates
        pending = [point for each in self.state.pending() if (point := coordinates.point(each)) is not None]
        return Surrogate(points, scores, self._kernels[1], variances).believing(np.array(pending))

    def _maximise(
        self, surrogate: Surrogate, acquisition: Acquisition, models: Matrix, rng: np.random.Generator
    ) -> Matrix:
        """The best candidate among variations of `models`, and then of the best candidates themselves."""
        candidates = _variations(models, CANDIDATES, STEPS, rng)
        for _ in range(ROUNDS):
            best = candidates[self._ranked(surrogate, acquisition, candidates)[:KEPT]]
            candidates = np.vstack([best, _variations(best, REFINED, (STEPS[0] / 2, STEPS[1] / 2), rng)])
        child: Matrix = candidates[self._ranked(surrogate, acquisition, candidates)[0]]
        return child

    def _ranked(self, surrogate: Surrogate, acquisition: Acquisition, candidates: Matrix) -> NDArray[np.intp]:
        """Indices of the candidates, best first; those with a predicted score below a floor come last."""
        means, deviations = surrogate(candidates)
        upper = np.minimum(means + self._optimism * deviations, 1.0)[:, : len(self.state.objectives)]
        below = np.zeros(len(candidates), bool)
        for floor in self.state.floors:
            below |= means[:, floor.column] < floor.least
        order: NDArray[np.intp] = np.lexsort((-acquisition(upper), below))
        return order


def _variations(models: Matrix, count: int, steps: tuple[float, float], rng: np.random.Generator) -> Matrix:
    """Random variations of `models`, shape (count, dimensions).

    A fifth, half or all of the coefficients of each move, by a step size of its own; at least one moves, so that no
    variation equals its model.
    """
    drawn = models[rng.integers(len(models), size=count)]
    size = np.exp(rng.uniform(log(steps[0]), log(steps[1]), size=(count, 1)))
    moved = rng.random(drawn.shape) < rng.choice([0.2, 0.5, 1.0], size=(count, 1))
    moved[np.arange(count), rng.integers(drawn.shape[1], size=count)] = True
    variations: Matrix = drawn + size * moved * rng.standard_normal(drawn.shape)
    return variations


def _mean(upper: Matrix) -> NDArray[np.float64]:
    return np.asarray(upper.mean(axis=1))


def _front(scores: Matrix) -> NDArray[np.intp]:
    """Indices of the models that no other model dominates."""
    import moocore  # late: only Bayesian optimisation needs it

    return np.flatnonzero(moocore.is_nondominated(scores, maximise=True))


def _added_hypervolume(front: Matrix, upper: Matrix) -> NDArray[np.float64]:
    """The hypervolume that each candidate would add to the front."""
    import moocore

    volume = moocore.hypervolume(front, ref=0.0, maximise=True)
    dominated = np.any(np.all(front[None] >= upper[:, None], axis=2), axis=1)
    added = np.zeros(len(upper))
    for place in np.flatnonzero(~dominated):
        added[place] = moocore.hypervolume(np.vstack([front, upper[place]]), ref=0.0, maximise=True) - volume
    return added
