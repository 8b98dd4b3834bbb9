"""CMA-ME over coefficients, by `ribs`: emitters that adapt a normal distribution each to what improves the archives."""

from __future__ import annotations

import numpy as np
from ribs.archives import AddStatus, ArchiveBase
from ribs.emitters import EvolutionStrategyEmitter
from ribs.typing import Int

from cycleqd_merge.evolution.draws import generator, new_seed
from cycleqd_merge.evolution.genome import Matrix
from cycleqd_merge.strategies.space import Insertion, SearchSpace

LEAST = -2.0
"""Ranks a child without scores below all others: what a child gains lies between -1 and 1."""


class CmaMe:
    """See `Optimiser`. One improvement emitter per task: children that found a cell in its archive rank above those
    that improved one, and these above the rest, each kind by what was gained. One emitter more ranks by the mean score
    alone. They take turns, a population each.

    start: coefficients to begin at, shape (dimensions,). population: children; None: as many as `ribs` takes.
    """

    def __init__(self, space: SearchSpace, start: Matrix, sigma: float, population: int | None, seed: int) -> None:
        tasks = len(space.objectives)
        self._emitters = [
            EvolutionStrategyEmitter(
                _Elites(space, range(tasks) if task == tasks else [task], generator(seed, "cma-me", "restart", task)),
                x0=start,
                sigma0=sigma,
                ranker="2imp",
                selection_rule="mu" if task == tasks else "filter",
                restart_rule="basic" if task == tasks else "no_improvement",
                batch_size=population,
                seed=new_seed(seed, "cma-me", task),
            )
            for task in range(tasks + 1)
        ]
        self._turn = 0

    def ask(self) -> Matrix:
        """See `Optimiser.ask`."""
        return np.array(self._emitters[self._turn].ask())

    def tell(self, population: Matrix, admissions: list[Insertion]) -> None:
        """See `Optimiser.tell`. A child without scores ranks below all others."""
        ranks = [_rank(admission, self._turn) for admission in admissions]
        status, value = zip(*ranks, strict=True)
        nothing = np.zeros((len(population), 0))
        add_info = {"status": np.array(status), "value": np.array(value)}
        self._emitters[self._turn].tell(population, np.array(value), nothing, add_info)
        self._turn = (self._turn + 1) % len(self._emitters)


def _rank(admission: Insertion, task: int) -> tuple[int, float]:
    """What an emitter ranks a child by: a task's by its status and gain there, the one behind them by the mean."""
    if admission.scores is None:
        return AddStatus.NOT_ADDED, LEAST
    if task == len(admission.entries):
        return AddStatus.NOT_ADDED, float(np.mean(admission.scores))
    return admission.entries[task].status, admission.entries[task].gain


class _Elites(ArchiveBase):
    """What an emitter of `ribs` needs of an archive: an elite to begin anew at, by its coefficients."""

    def __init__(self, space: SearchSpace, tasks: range | list[int], rng: np.random.Generator) -> None:
        super().__init__(solution_dim=space.experts * space.groups, objective_dim=(), measure_dim=0)
        self._space, self._tasks, self._rng = space, tasks, rng

    @property
    def dtypes(self) -> dict[str, np.dtype]:
        return dict.fromkeys(("solution", "objective", "measures"), np.dtype(np.float64))

    def sample_elites(self, n: Int, replace: bool = True) -> dict[str, Matrix]:
        """`n` elites, each as likely; mutations that they went through are left behind."""
        numbers = np.unique(np.concatenate([self._space.archives[task].table()[0] for task in self._tasks]))
        chosen = self._rng.choice(numbers, n, replace=replace).tolist()
        return {"solution": np.array([self._space.genome(number).coefficients.ravel() for number in chosen])}
