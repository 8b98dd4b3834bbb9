"""One pool for all runs of a comparison: engines start once, whatever coefficient groups a strategy has."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from cycleqd_merge.evaluation.pools.pool import Finished, Pool
from cycleqd_merge.evolution.genome import Genome, spread
from cycleqd_merge.strategies.protocol import Proposal
from cycleqd_merge.tasks.protocol import Split

if TYPE_CHECKING:  # fits import torch
    from cycleqd_merge.fitting.job import FitJob, FitResult


class SharedPool:
    """A `Pool` that is opened when it receives its first proposal, also after it was closed.

    groups: number of coefficient groups that it evaluates with; genomes of one group are spread over them.
    """

    def __init__(self, open_pool: Callable[[], Pool], groups: int) -> None:
        self._open, self._groups = open_pool, groups
        self._pool: Pool | None = None

    def open(self) -> Pool:
        """The pool itself, its workers started."""
        if self._pool is None:
            self._pool = self._open()
        return self._pool

    def submit(
        self,
        proposal: Proposal,
        rows: Split = "search",
        known: Mapping[str, float] | None = None,
        record: Collection[str] = (),
    ) -> None:
        pool = self.open()
        candidate = proposal.candidate
        if isinstance(candidate, Genome) and candidate.coefficients.shape[1] < self._groups:
            proposal = replace(proposal, candidate=spread(candidate, self._groups))
        pool.submit(proposal, rows, known, record)

    def next(self) -> Finished:
        assert self._pool is not None, "nothing was submitted"
        return self._pool.next()

    def poll(self, seconds: float) -> Finished | None:
        assert self._pool is not None, "nothing was submitted"
        return self._pool.poll(seconds)

    def fit(self, jobs: Sequence[FitJob], received: Callable[[FitResult], None]) -> None:
        self.open().fit(jobs, received)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None
