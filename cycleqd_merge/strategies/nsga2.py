"""NSGA-II over coefficients, by `pymoo`: every task's score is an objective."""

from __future__ import annotations

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.evaluator import Evaluator
from pymoo.core.problem import Problem
from pymoo.problems.static import StaticProblem
from pymoo.termination.max_gen import MaximumGenerationTermination

from cycleqd_merge.evolution.draws import new_seed
from cycleqd_merge.evolution.genome import Matrix
from cycleqd_merge.strategies.space import Insertion


class Nsga2:
    """See `Optimiser`. Coefficients lie in [low, high]."""

    def __init__(self, dimensions: int, tasks: int, population: int, low: float, high: float, seed: int) -> None:
        self._problem = Problem(n_var=dimensions, n_obj=tasks, xl=low, xu=high)
        self._search = NSGA2(pop_size=population)
        endless = MaximumGenerationTermination(10**9)
        self._search.setup(self._problem, seed=new_seed(seed, "nsga2") % 2**32, termination=endless, verbose=False)

    def ask(self) -> Matrix:
        """See `Optimiser.ask`."""
        self._asked = self._search.ask()
        return np.asarray(self._asked.get("X"), dtype=np.float64)

    def tell(self, population: Matrix, admissions: list[Insertion]) -> None:
        """See `Optimiser.tell`. A child without scores is beaten by all others."""
        worst = (-1.0,) * int(self._problem.n_obj)
        losses = -np.array([worst if each.scores is None else each.scores for each in admissions])
        self._asked.set("X", population)  # a restored run's are those that were recorded
        Evaluator().eval(StaticProblem(self._problem, F=losses), self._asked)
        self._search.tell(infills=self._asked)
