"""Optimisers of `Coordinates`: CMA-ES and NSGA-II, which work in whole populations, and random search."""

from __future__ import annotations

import warnings
from typing import Any, Protocol

import numpy as np

from cycleqd_merge.errors import RecipeError
from cycleqd_merge.evolution.draws import generator, new_seed
from cycleqd_merge.evolution.genome import Matrix
from cycleqd_merge.strategies.protocol import Proposal, Result
from cycleqd_merge.strategies.state import Insertion, SearchState

DIGITS = 6
"""Decimals that coefficients are rounded to, far finer than a checkpoint's dtype."""

Level = float | Matrix
"""A value for all dimensions, or one for each, shape (dimensions,)."""


class Optimiser(Protocol):
    """Proposes whole populations of vectors and learns from each population at once."""

    def ask(self) -> Matrix:
        """The next population, shape (children, dimensions)."""
        ...

    def tell(self, population: Matrix, insertions: list[Insertion]) -> None:
        """Receive the insertion of each child of the population into the archives."""
        ...


class PopulationStrategy:
    """A strategy that proposes an optimiser's populations child by child.

    It asks the optimiser for the next population once it has received all results of the last one.
    """

    def __init__(self, state: SearchState, optimiser: Optimiser) -> None:
        self.state, self._optimiser = state, optimiser
        self._population: Matrix = np.zeros((0, state.space.dimensions))
        self._numbers: list[int] = []
        self._insertions: list[Insertion] = []

    def ask(self, number: int) -> Proposal | None:
        """See `Strategy.ask`."""
        return self.recall(number, {})

    def recall(self, number: int, step: dict[str, Any]) -> Proposal | None:
        """See `Recalling.recall`."""
        if number < self.state.first:
            return self.state.founder(number)
        return self.emit(number, self.state.recorded(step)) if self.state.archives else None

    def emit(self, number: int, recorded: Matrix | None = None) -> Proposal | None:
        """See `Emitter.emit`: the population's next child, or the first of a new population."""
        if len(self._numbers) == len(self._population):
            if len(self._insertions) < len(self._population):
                return None
            self._next_population()
        place = len(self._numbers)
        if recorded is not None and not np.array_equal(self._population[place].round(DIGITS), recorded):
            self._population[place] = recorded  # if they agree, the optimiser learns from the vector before rounding
        coordinates, point = self.state.coordinates, self._population[place].round(DIGITS)
        self._numbers.append(number)
        return self.state.propose(number, coordinates.genome(point), coordinates.step(point))

    def tell(self, result: Result) -> None:
        """See `Strategy.tell`."""
        self.learn(result.number, self.state.tell(result))

    def learn(self, number: int, insertion: Insertion) -> None:
        """See `Emitter.learn`."""
        if number in self._numbers:
            self._insertions.append(insertion)

    def _next_population(self) -> None:
        if len(self._population):
            self._optimiser.tell(self._population, self._insertions)
        self._population, self._numbers, self._insertions = self._optimiser.ask(), [], []


class CmaEs:
    """See `Optimiser`. CMA-ES by `cma`, as in mergekit-evolve: maximises the weighted mean of the tasks' scores.

    Once it has converged, it restarts from `start` with twice the population (IPOP).

    start: initial point, shape (dimensions,). weights: of the tasks, shape (tasks,).
    """

    def __init__(self, start: Matrix, sigma: float, population: int | None, weights: Matrix, seed: int) -> None:
        self._start, self._sigma = start, sigma
        self._weights = weights / weights.sum()
        self._rng = generator(seed, "cma-es")
        self._search = self._begin(population)

    def _begin(self, population: int | None) -> Any:
        from cma import CMAEvolutionStrategy  # late, as all optimisers' libraries: other strategies do not need it

        options = {"verbose": -9, "randn": self._normal, "seed": np.nan}
        return CMAEvolutionStrategy(self._start, self._sigma, options | ({"popsize": population} if population else {}))

    def _normal(self, *shape: int) -> Matrix:
        return self._rng.standard_normal(shape)

    def ask(self) -> Matrix:
        """See `Optimiser.ask`."""
        if self._search.stop():
            self._search = self._begin(2 * int(self._search.popsize))
        return np.array(self._search.ask())

    def tell(self, population: Matrix, insertions: list[Insertion]) -> None:
        """See `Optimiser.tell`. A child without scores ranks below all others."""
        from cma.evolution_strategy import InjectionWarning

        losses = [1.0 if each.ranked is None else -float(np.dot(self._weights, each.ranked)) for each in insertions]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InjectionWarning)  # a restored population may come from another machine
            self._search.tell(list(population), losses)


class Nsga2:
    """See `Optimiser`. NSGA-II by `pymoo`: every task's score is an objective; points are between `low` and `high`,
    which may differ by dimension.

    Raises:
        RecipeError: pymoo is not installed.
    """

    def __init__(self, dimensions: int, tasks: int, population: int, low: Level, high: Level, seed: int) -> None:
        try:
            from pymoo.algorithms.moo.nsga2 import NSGA2
            from pymoo.core.problem import Problem
            from pymoo.termination.max_gen import MaximumGenerationTermination
        except ModuleNotFoundError as error:
            raise RecipeError("strategy: nsga2 requires pymoo: pip install 'cycleqd-merge[nsga2]'") from error
        self._problem = Problem(n_var=dimensions, n_obj=tasks, xl=low, xu=high)
        self._search = NSGA2(pop_size=population)
        endless = MaximumGenerationTermination(10**9)
        self._search.setup(self._problem, seed=new_seed(seed, "nsga2") % 2**32, termination=endless, verbose=False)

    def ask(self) -> Matrix:
        """See `Optimiser.ask`."""
        self._asked = self._search.ask()
        return np.asarray(self._asked.get("X"), dtype=np.float64)

    def tell(self, population: Matrix, insertions: list[Insertion]) -> None:
        """See `Optimiser.tell`. A child without scores is dominated by all others."""
        from pymoo.core.evaluator import Evaluator
        from pymoo.problems.static import StaticProblem

        worst = (-1.0,) * int(self._problem.n_obj)
        losses = -np.array([worst if each.ranked is None else each.ranked for each in insertions])
        self._asked.set("X", population)  # in a restored run, the recorded one
        Evaluator().eval(StaticProblem(self._problem, F=losses), self._asked)
        self._search.tell(infills=self._asked)


class RandomSearch:
    """The baseline for every other strategy: points drawn from U(low, high), independently for each child.

    low, high: may differ by dimension.
    """

    def __init__(self, state: SearchState, seed: int, low: Level, high: Level) -> None:
        self.state, self.seed, self.low, self.high = state, seed, low, high

    def ask(self, number: int) -> Proposal | None:
        """See `Strategy.ask`."""
        if number < self.state.first:
            return self.state.founder(number)
        drawn = generator(self.seed, number).uniform(self.low, self.high, self.state.space.dimensions)
        return self.state.propose(number, self.state.coordinates.genome(drawn), {})

    def tell(self, result: Result) -> None:
        """See `Strategy.tell`."""
        self.state.tell(result)
