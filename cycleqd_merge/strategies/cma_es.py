"""CMA-ES over coefficients, by `cma`: the search that mergekit-evolve ran."""

from __future__ import annotations

import warnings

import numpy as np
from cma import CMAEvolutionStrategy
from cma.evolution_strategy import InjectionWarning

from cycleqd_merge.evolution.draws import generator
from cycleqd_merge.evolution.genome import Matrix
from cycleqd_merge.strategies.space import Insertion


class CmaEs:
    """See `Optimiser`. Maximises the weighted mean of the tasks' scores; begins anew where it started, with twice the
    population (IPOP), once it has converged.

    start: coefficients to begin at, shape (dimensions,). weights: of the tasks, shape (tasks,).
    """

    def __init__(self, start: Matrix, sigma: float, population: int | None, weights: Matrix, seed: int) -> None:
        self._start, self._sigma = start, sigma
        self._weights = weights / weights.sum()
        self._rng = generator(seed, "cma-es")
        self._search = self._begin(population)

    def _begin(self, population: int | None) -> CMAEvolutionStrategy:
        options = {"verbose": -9, "randn": self._normal, "seed": np.nan}
        return CMAEvolutionStrategy(self._start, self._sigma, options | ({"popsize": population} if population else {}))

    def _normal(self, *shape: int) -> Matrix:
        return self._rng.standard_normal(shape)

    def ask(self) -> Matrix:
        """See `Optimiser.ask`."""
        if self._search.stop():
            self._search = self._begin(2 * int(self._search.popsize))
        return np.array(self._search.ask())

    def tell(self, population: Matrix, admissions: list[Insertion]) -> None:
        """See `Optimiser.tell`. A child without scores ranks below all others."""
        losses = [1.0 if each.scores is None else -float(np.dot(self._weights, each.scores)) for each in admissions]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InjectionWarning)  # of a restored run: told what another machine had asked
            self._search.tell(list(population), losses)
