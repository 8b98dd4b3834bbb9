"""Bayesian optimisation over coefficients: every child is the most promising of many that are only thought of."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import log
from typing import Any, Literal

import moocore
import numpy as np
from numpy.typing import NDArray

from cycleqd_merge.evolution.candidate import Candidate
from cycleqd_merge.evolution.draws import generator
from cycleqd_merge.evolution.genome import Genome, Matrix, coefficient_genome
from cycleqd_merge.strategies.populations import DIGITS
from cycleqd_merge.strategies.protocol import Proposal
from cycleqd_merge.strategies.space import Insertion, SearchSpace
from cycleqd_merge.strategies.surrogate import Surrogate, fitted_kernels, settled

CANDIDATES, REFINED, ROUNDS, KEPT = 600, 200, 2, 10
"""Candidates of a child; then, so many rounds, variations of the most promising ones among which it is sought again."""
STEPS = (0.03, 0.4)
"""Least and greatest standard deviation of a candidate's coefficients about those of the model that it varies."""

Aim = Literal["mean", "front"]
Promise = Callable[[Matrix], NDArray[np.float64]]
"""What candidates of shape (candidates, tasks) promise by the scores foretold of them, shape (candidates,)."""


class Bayesian:
    """See `Emitter`. Scores are foretold from all unmutated models told so far; a child is foretold by the upper
    confidence bound, `optimism` standard deviations above the mean. In turns it promises a high mean score, or much
    hypervolume beside all that was scored (SMS-EGO; Ponweiser et al., 2008).
    """

    def __init__(self, space: SearchSpace, optimism: float, seed: int) -> None:
        self.space, self._optimism, self._seed = space, optimism, seed
        self._kernels: tuple[int, list[Any]] = (0, [])

    def emit(self, number: int, recorded: Matrix | None = None) -> Proposal:
        """See `Emitter.emit`: a child can always be thought of once an expert was scored."""
        aim: Aim = "front" if (number - self.space.first) % 2 else "mean"
        child = self._thought_of(number, aim) if recorded is None else recorded
        genome = coefficient_genome(child.reshape(self.space.experts, self.space.groups).round(DIGITS))
        return self.space.propose(number, genome, {"coefficients": genome.coefficients.tolist(), "aim": aim})

    def learn(self, number: int, admission: Insertion) -> None:
        """See `Emitter.learn`: everything is learned from the space."""

    def _thought_of(self, number: int, aim: Aim) -> Matrix:
        points, scores = self._measured()
        forecast = self._forecast(points, scores)
        holding = np.array([self.space.holds(tuple(each)) for each in scores])
        if holding.any():  # what falls below a floor is learned from, but neither varied nor surpassed
            points, scores = points[holding], scores[holding]
        objectives = scores[:, : len(self.space.objectives)]
        promise: Promise = _mean
        if aim == "front":
            best = np.flatnonzero(moocore.is_nondominated(objectives, maximise=True))
            promise = partial(_added, objectives[best])
        else:
            best = np.argsort(-objectives.mean(axis=1), kind="stable")[:KEPT]
        return self._most_promising(forecast, promise, points[best], generator(self._seed, number, "bayesian"))

    def _measured(self) -> tuple[Matrix, Matrix]:
        """Coefficients and scores of the unmutated genomes told so far, in their order."""
        told = [
            (point, scores)
            for candidate, scores in self.space.told()
            if scores is not None and (point := _point(candidate)) is not None
        ]
        points, scores = zip(*told, strict=True)
        return np.array(points), np.array(scores)

    def _forecast(self, points: Matrix, scores: Matrix) -> Surrogate:
        """From the models told; those in flight count as scoring what is foretold of them."""
        count = settled(len(points))
        if self._kernels[0] != count:
            self._kernels = count, fitted_kernels(points[:count], scores[:count])
        pending = [point for each in self.space.pending() if (point := _point(each)) is not None]
        return Surrogate(points, scores, self._kernels[1]).believing(np.array(pending))

    def _most_promising(
        self, forecast: Surrogate, promise: Promise, varied: Matrix, rng: np.random.Generator
    ) -> Matrix:
        candidates = _variations(varied, CANDIDATES, STEPS, rng)
        for _ in range(ROUNDS):
            best = candidates[self._ranked(forecast, promise, candidates)[:KEPT]]
            candidates = np.vstack([best, _variations(best, REFINED, (STEPS[0] / 2, STEPS[1] / 2), rng)])
        child: Matrix = candidates[self._ranked(forecast, promise, candidates)[0]]
        return child

    def _ranked(self, forecast: Surrogate, promise: Promise, candidates: Matrix) -> NDArray[np.intp]:
        """Places of the candidates, the most promising first; those foretold to fall below a floor come last."""
        means, deviations = forecast(candidates)
        hopes = np.minimum(means + self._optimism * deviations, 1.0)[:, : len(self.space.objectives)]
        falls = np.zeros(len(candidates), bool)
        for floor in self.space.floors:
            falls |= means[:, floor.column] < floor.least
        order: NDArray[np.intp] = np.lexsort((-promise(hopes), falls))
        return order


def _point(candidate: Candidate) -> Matrix | None:
    """The coefficients of an unmutated genome; None for anything else."""
    return candidate.coefficients.ravel() if isinstance(candidate, Genome) and not candidate.mutations else None


def _variations(models: Matrix, count: int, steps: tuple[float, float], rng: np.random.Generator) -> Matrix:
    """Models drawn from `models`, a fifth, half or all of each one's coefficients moved by a step of its own size, and
    always one of them: no model is thought of again."""
    drawn = models[rng.integers(len(models), size=count)]
    size = np.exp(rng.uniform(log(steps[0]), log(steps[1]), size=(count, 1)))
    moved = rng.random(drawn.shape) < rng.choice([0.2, 0.5, 1.0], size=(count, 1))
    moved[np.arange(count), rng.integers(drawn.shape[1], size=count)] = True
    variations: Matrix = drawn + size * moved * rng.standard_normal(drawn.shape)
    return variations


def _mean(hopes: Matrix) -> NDArray[np.float64]:
    return np.asarray(hopes.mean(axis=1))


def _added(front: Matrix, hopes: Matrix) -> NDArray[np.float64]:
    """The hypervolume that each would add to the front."""
    volume = moocore.hypervolume(front, ref=0.0, maximise=True)
    dominated = np.any(np.all(front[None] >= hopes[:, None], axis=2), axis=1)
    added = np.zeros(len(hopes))
    for place in np.flatnonzero(~dominated):
        added[place] = moocore.hypervolume(np.vstack([front, hopes[place]]), ref=0.0, maximise=True) - volume
    return added
