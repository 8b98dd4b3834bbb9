"""Bayesian optimisation over coefficients: every child is the most promising of many that are only thought of."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import moocore
import numpy as np
from numpy.typing import NDArray

from cycleqd_merge.evolution.draws import generator
from cycleqd_merge.evolution.forecast import Forecast, fitted_kernels, settled
from cycleqd_merge.evolution.genome import Genome, Matrix, coefficient_genome
from cycleqd_merge.evolution.populations import DIGITS
from cycleqd_merge.evolution.space import Admission, SearchSpace
from cycleqd_merge.evolution.strategy import Proposal

CANDIDATES, REFINED, ROUNDS, KEPT = 600, 200, 2, 10
"""Candidates of a child; then, so many rounds, variations of the most promising ones among which it is sought again."""
STEPS = (0.03, 0.4)
"""Least and greatest standard deviation of a candidate's coefficients about those of the model that it varies."""

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

    def emit(self, number: int) -> Proposal:
        """See `Emitter.emit`: a child can always be thought of once an expert was scored."""
        points, scores = self._measured()
        forecast = self._forecast(points, scores)
        tasks = len(self.space.objectives)
        rng = generator(self._seed, number, "bayesian")
        if (number - self.space.first) % 2:
            front = scores[moocore.is_nondominated(scores[:, :tasks], maximise=True)]
            aim, promise = "front", partial(_added, front[:, :tasks])
            varied = points[moocore.is_nondominated(scores[:, :tasks], maximise=True)]
        else:
            aim, promise = "mean", _mean
            varied = points[np.argsort(-scores[:, :tasks].mean(axis=1), kind="stable")[:KEPT]]
        child = self._most_promising(forecast, promise, varied, rng)
        return self._propose(number, child, {"aim": aim})

    def emit_again(self, number: int, step: dict[str, Any]) -> Proposal:
        """See `Emitter.emit_again`."""
        return self._propose(number, np.ravel(step["coefficients"]), {"aim": step["aim"]})

    def learn(self, number: int, admission: Admission) -> None:
        """See `Emitter.learn`: everything is learned from the space."""

    def _propose(self, number: int, child: Matrix, step: dict[str, Any]) -> Proposal:
        genome = coefficient_genome(child.reshape(self.space.experts, self.space.groups).round(DIGITS))
        return self.space.propose(number, genome, {"coefficients": genome.coefficients.tolist()} | step)

    def _measured(self) -> tuple[Matrix, Matrix]:
        """Coefficients and scores of the unmutated genomes told so far, in their order."""
        told = [
            (genome.coefficients.ravel(), scores)
            for genome, scores in self.space.told()
            if scores is not None and isinstance(genome, Genome) and not genome.mutations
        ]
        points, scores = zip(*told, strict=True)
        return np.array(points), np.array(scores)

    def _forecast(self, points: Matrix, scores: Matrix) -> Forecast:
        """From the models told; those in flight count as scoring what is foretold of them."""
        count = settled(len(points))
        if self._kernels[0] != count:
            self._kernels = count, fitted_kernels(points[:count], scores[:count])
        pending = [each.coefficients.ravel() for each in self.space.pending() if isinstance(each, Genome)]
        return Forecast(points, scores, self._kernels[1]).believing(np.array(pending))

    def _most_promising(self, forecast: Forecast, promise: Promise, varied: Matrix, rng: np.random.Generator) -> Matrix:
        candidates = _variations(varied, CANDIDATES, np.array(STEPS), rng)
        for _ in range(ROUNDS):
            best = candidates[self._ranked(forecast, promise, candidates)[:KEPT]]
            candidates = np.vstack([best, _variations(best, REFINED, np.array(STEPS) / 2, rng)])
        child: Matrix = candidates[self._ranked(forecast, promise, candidates)[0]]
        return child

    def _ranked(self, forecast: Forecast, promise: Promise, candidates: Matrix) -> NDArray[np.intp]:
        """Places of the candidates, the most promising first; those foretold to fall below a floor come last."""
        means, deviations = forecast(candidates)
        hopes = np.minimum(means + self._optimism * deviations, 1.0)[:, : len(self.space.objectives)]
        falls = np.zeros(len(candidates), bool)
        for floor in self.space.floors:
            falls |= means[:, floor.column] < floor.least
        return np.lexsort((-promise(hopes), falls))


def _variations(models: Matrix, count: int, steps: Matrix, rng: np.random.Generator) -> Matrix:
    """Models drawn from `models`, a fifth, half or all of each one's coefficients moved by a step of its own size."""
    drawn = models[rng.integers(len(models), size=count)]
    size = np.exp(rng.uniform(*np.log(steps), size=(count, 1)))
    moved = rng.random(drawn.shape) < rng.choice([0.2, 0.5, 1.0], size=(count, 1))
    return drawn + size * moved * rng.standard_normal(drawn.shape)


def _mean(hopes: Matrix) -> NDArray[np.float64]:
    return hopes.mean(axis=1)


def _added(front: Matrix, hopes: Matrix) -> NDArray[np.float64]:
    """The hypervolume that each would add to the front."""
    volume = moocore.hypervolume(front, ref=0.0, maximise=True)
    beyond = ~(front[None] >= hopes[:, None]).all(axis=2).any(axis=1)
    added = np.zeros(len(hopes))
    for place in np.flatnonzero(beyond):
        added[place] = moocore.hypervolume(np.vstack([front, hopes[place]]), ref=0.0, maximise=True) - volume
    return added
