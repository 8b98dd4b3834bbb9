"""CMA-ME over `Coordinates`, by `ribs`: every emitter adapts a normal distribution to what improves the archives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cycleqd_merge.cache import give_numba_a_cache
from cycleqd_merge.evolution.archive import AddStatus
from cycleqd_merge.evolution.draws import generator, new_seed
from cycleqd_merge.evolution.genome import Matrix
from cycleqd_merge.strategies.state import Insertion, SearchState

LEAST = -2.0
"""Ranks a child without scores below all others, whose gains are between -1 and 1."""


class CmaMe:
    """See `Optimiser`. One improvement emitter per task, and one that ranks by the mean score alone.

    A task's emitter ranks first the children that filled an empty cell of the task's archive, then those that improved
    a cell, then the others, each group by its gain in quality. The emitters take turns, one population each.

    start: initial point, shape (dimensions,). population: children; None for the default of `ribs`.
    """

    def __init__(self, state: SearchState, start: Matrix, sigma: float, population: int | None, seed: int) -> None:
        give_numba_a_cache()
        from ribs.emitters import EvolutionStrategyEmitter  # late: it imports torch

        tasks = len(state.objectives)
        elites: list[Any] = [
            _Elites(state, range(tasks) if task == tasks else [task], generator(seed, "cma-me", "restart", task))
            for task in range(tasks + 1)
        ]
        self._emitters = [
            EvolutionStrategyEmitter(
                elites[task],
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

    def tell(self, population: Matrix, insertions: list[Insertion]) -> None:
        """See `Optimiser.tell`. A child without scores ranks below all others."""
        ranks = [_rank(insertion, self._turn, len(self._emitters) - 1) for insertion in insertions]
        status, value = zip(*ranks, strict=True)
        no_measures = np.zeros((len(population), 0))
        add_info = {"status": np.array(status), "value": np.array(value)}
        self._emitters[self._turn].tell(population, np.array(value), no_measures, add_info)
        self._turn = (self._turn + 1) % len(self._emitters)


def _rank(insertion: Insertion, task: int, tasks: int) -> tuple[int, float]:
    """Status and value that an emitter ranks a child by; the last emitter takes the mean score as the value."""
    if task == tasks and insertion.ranked is not None:
        return AddStatus.NOT_ADDED, float(np.mean(insertion.ranked))
    if insertion.scores is None:  # failed, or rejected by racing: no archive is improved
        return AddStatus.NOT_ADDED, LEAST
    return insertion.by_archive[task].status, insertion.by_archive[task].gain


class _Elites:
    """The part of a `ribs` archive that an emitter reads: an elite's coefficients to restart from."""

    def __init__(self, state: SearchState, tasks: Sequence[int], rng: np.random.Generator) -> None:
        self.solution_dim, self.measure_dim = state.space.dimensions, 0
        self.dtypes = dict.fromkeys(("solution", "objective", "measures"), np.dtype(np.float64))
        self._state, self._tasks, self._rng = state, tasks, rng

    def sample_elites(self, n: int) -> dict[str, Matrix]:
        """`n` elites with equal probability, without their mutations; shape (n, dimensions)."""
        numbers = np.unique(np.concatenate([self._state.archives[task].table()[0] for task in self._tasks]))
        chosen = self._rng.choice(numbers, n, replace=True).tolist()
        coordinates = self._state.coordinates
        return {"solution": np.array([coordinates.nearest(self._state.genome(number)) for number in chosen])}
