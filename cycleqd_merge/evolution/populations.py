"""Optimisers that think in whole populations, as a strategy over the coefficients of a search space."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from cycleqd_merge.evolution.archive import Scores
from cycleqd_merge.evolution.genome import Genome, Matrix, coefficient_genome
from cycleqd_merge.evolution.space import SearchSpace
from cycleqd_merge.evolution.strategy import Proposal, Result

DIGITS = 6
"""Coefficients are rounded to so many decimals: far below what a checkpoint's dtype can tell apart, far above what
linear algebra on two machines differs by, so that a run is replayed on any."""


class Optimiser(Protocol):
    """Proposes populations of vectors and learns from the scores of all of one at once."""

    def ask(self) -> Matrix:
        """The next population, shape (children, dimensions)."""
        ...

    def tell(self, population: Matrix, scores: list[Scores | None]) -> None:
        """What the children of the population scored: the objectives' scores; None for one that failed or that fell
        below a floor."""
        ...


class Populations:
    """A strategy that hands out an optimiser's populations; the next is asked once all of one was told."""

    def __init__(self, space: SearchSpace, optimiser: Optimiser) -> None:
        self.space, self._optimiser = space, optimiser
        self._population: Matrix = np.zeros((0, space.experts * space.groups))
        self._begins = space.first
        self._told: list[Scores | None] = []

    def ask(self, number: int) -> Proposal | None:
        """See `Strategy.ask`."""
        if number < self.space.first:
            return self.space.founder(number)
        if number == self._begins + len(self._population):
            if not self.space.archives or len(self._told) < len(self._population):
                return None
            self._next_population(number)
        member = number - self._begins
        genome = self._genome(self._population[member])
        return self.space.propose(number, genome, {"coefficients": genome.coefficients.tolist()})

    def tell(self, result: Result) -> None:
        """See `Strategy.tell`."""
        self.space.tell(result)
        if result.number >= self.space.first:
            fit = result.scores is not None and self.space.holds(result.scores)
            self._told.append(result.scores[: len(self.space.objectives)] if result.scores and fit else None)

    def _next_population(self, number: int) -> None:
        if len(self._population):
            self._optimiser.tell(self._population, self._told)
        self._population, self._begins, self._told = self._optimiser.ask(), number, []

    def _genome(self, vector: Matrix) -> Genome:
        return coefficient_genome(vector.reshape(self.space.experts, self.space.groups).round(DIGITS))
