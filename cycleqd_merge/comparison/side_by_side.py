"""Searches at work side by side over one pool: one alone seldom keeps many workers busy."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import TypeVar

from cycleqd_merge.errors import Interrupted
from cycleqd_merge.evaluation.pools.pool import Finished, Pool
from cycleqd_merge.strategies.protocol import Proposal
from cycleqd_merge.tasks.protocol import Split

Of = TypeVar("Of")
PATIENCE = 0.02
"""Seconds that what a search submits may wait while the pool is waited for."""


@dataclass(frozen=True)
class _Submitted:
    lane: Lane
    proposal: Proposal
    rows: Split
    known: Mapping[str, float] | None


class Lane:
    """What one of several searches sees of the pool that they share; see `Pool`."""

    def __init__(self, submitted: SimpleQueue[_Submitted]) -> None:
        self._submitted = submitted
        self._finished: SimpleQueue[Finished | None] = SimpleQueue()

    def submit(self, proposal: Proposal, rows: Split = "search", known: Mapping[str, float] | None = None) -> None:
        self._submitted.put(_Submitted(self, proposal, rows, known))

    def next(self) -> Finished:
        """See `Pool.next`.

        Raises:
            Interrupted: the searches are to stop.
        """
        finished = self._finished.get()
        if finished is None:
            self.finish(None)  # whoever asks again hears it again
            raise Interrupted("another search stopped")
        return finished

    def poll(self, seconds: float) -> Finished | None:
        try:
            self._finished.put(self._finished.get(timeout=seconds))
        except Empty:
            return None
        return self.next()

    def finish(self, finished: Finished | None) -> None:
        """Hand over what ended; None: nothing will end any more."""
        self._finished.put(finished)

    def close(self) -> None:
        """The pool stays open for the others."""


def side_by_side(pool: Pool, jobs: Sequence[Callable[[Pool], Of]], at_once: int) -> list[Of]:
    """What the jobs return, in their order. So many are at work at once, in threads; this one alone asks `pool`.

    Raises:
        Interrupted: by a signal; the jobs were stopped.
        Exception: what the first job to fail raised; the others were stopped.
    """
    if at_once == 1:
        return [job(pool) for job in jobs]
    submitted: SimpleQueue[_Submitted] = SimpleQueue()
    lanes = [Lane(submitted) for _ in jobs]
    with ThreadPoolExecutor(at_once, "search") as threads:
        at_work: list[Future[Of]] = []
        try:
            at_work += [threads.submit(job, lane) for job, lane in zip(jobs, lanes, strict=True)]
            _serve(pool, submitted, at_work)
        except BaseException:
            for each in at_work:
                each.cancel()
            for lane in lanes:
                lane.finish(None)
            raise
    return [each.result() for each in at_work]


def _serve(pool: Pool, submitted: SimpleQueue[_Submitted], at_work: Sequence[Future[Of]]) -> None:
    """Hand on what the jobs submit, and to each what ended, until all are done or one failed."""
    numbers, owners = itertools.count(), dict[int, tuple[Lane, int]]()
    while not all(each.done() for each in at_work):
        for failed in (each for each in at_work if each.done() and each.exception() is not None):
            failed.result()
        for each in _waiting(submitted, 0.0 if owners else PATIENCE):
            number = next(numbers)
            owners[number] = each.lane, each.proposal.number
            pool.submit(replace(each.proposal, number=number), each.rows, each.known)
        finished = pool.poll(PATIENCE) if owners else None
        if finished is not None:
            lane, number = owners.pop(finished.number)
            lane.finish(replace(finished, number=number))


def _waiting(submitted: SimpleQueue[_Submitted], seconds: float) -> list[_Submitted]:
    """All that was submitted; waits so long for a first."""
    waiting = []
    try:
        waiting.append(submitted.get(timeout=seconds) if seconds else submitted.get_nowait())
        while True:
            waiting.append(submitted.get_nowait())
    except Empty:
        return waiting
