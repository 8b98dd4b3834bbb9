"""Optimisers that think in whole populations, as a strategy over the coefficients of a search space."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from cycleqd_merge.evolution.genome import Genome, Matrix, coefficient_genome
from cycleqd_merge.strategies.protocol import Proposal, Result
from cycleqd_merge.strategies.space import Insertion, SearchSpace

DIGITS = 6
"""Coefficients are rounded to so many decimals, far below what a checkpoint's dtype can tell apart."""


class Optimiser(Protocol):
    """Proposes populations of vectors and learns from all of one at once."""

    def ask(self) -> Matrix:
        """The next population, shape (children, dimensions)."""
        ...

    def tell(self, population: Matrix, admissions: list[Insertion]) -> None:
        """What became of each child of the population."""
        ...


class Populations:
    """A strategy that hands out an optimiser's populations; the next is asked once all of one was told."""

    def __init__(self, space: SearchSpace, optimiser: Optimiser) -> None:
        self.space, self._optimiser = space, optimiser
        self._population: Matrix = np.zeros((0, space.experts * space.groups))
        self._numbers: list[int] = []
        self._told: list[Insertion] = []

    def ask(self, number: int) -> Proposal | None:
        """See `Strategy.ask`."""
        return self.recall(number, {})

    def recall(self, number: int, step: dict[str, Any]) -> Proposal | None:
        """See `Recalling.recall`."""
        if number < self.space.first:
            return self.space.founder(number)
        return self.emit(number, self.space.recorded(step)) if self.space.archives else None

    def emit(self, number: int, recorded: Matrix | None = None) -> Proposal | None:
        """See `Emitter.emit`: the next of the population, or the first of a new one once all of one was told."""
        if len(self._numbers) == len(self._population):
            if len(self._told) < len(self._population):
                return None
            self._next_population()
        place = len(self._numbers)
        if recorded is not None and not np.array_equal(self._population[place].round(DIGITS), recorded):
            self._population[place] = recorded  # where they agree, the optimiser learns from what was not rounded
        genome = self._genome(self._population[place])
        self._numbers.append(number)
        return self.space.propose(number, genome, {"coefficients": genome.coefficients.tolist()})

    def tell(self, result: Result) -> None:
        """See `Strategy.tell`."""
        self.learn(result.number, self.space.tell(result))

    def learn(self, number: int, admission: Insertion) -> None:
        """See `Emitter.learn`."""
        if number in self._numbers:
            self._told.append(admission)

    def _next_population(self) -> None:
        if len(self._population):
            self._optimiser.tell(self._population, self._told)
        self._population, self._numbers, self._told = self._optimiser.ask(), [], []

    def _genome(self, vector: Matrix) -> Genome:
        return coefficient_genome(vector.reshape(self.space.experts, self.space.groups).round(DIGITS))
