"""Several runs in parallel on one pool: a single run seldom keeps many workers busy."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, TypeVar

from cycleqd_merge.errors import Interrupted
from cycleqd_merge.evaluation.pools.pool import Finished, Pool
from cycleqd_merge.strategies.protocol import Proposal
from cycleqd_merge.tasks.protocol import Split

if TYPE_CHECKING:  # fits import torch
    from cycleqd_merge.fitting.job import FitJob, FitResult

_Returned = TypeVar("_Returned")
POLL_SECONDS = 0.02
"""Longest wait for the pool, so that newly submitted proposals are passed on soon."""


@dataclass(frozen=True)
class _Submission:
    view: PoolView
    proposal: Proposal
    rows: Split
    known: Mapping[str, float] | None
    record: Collection[str]


@dataclass(frozen=True)
class _Fits:
    view: PoolView
    jobs: Sequence[FitJob]


class PoolView:
    """One run's view of the pool that several runs share; see `Pool`."""

    def __init__(self, submissions: SimpleQueue[_Submission | _Fits]) -> None:
        self._submissions = submissions
        self._fitted: SimpleQueue[FitResult | None] = SimpleQueue()
        self._recorded: SimpleQueue[BaseException | None] = SimpleQueue()
        self._finished: SimpleQueue[Finished | None] = SimpleQueue()

    def submit(
        self,
        proposal: Proposal,
        rows: Split = "search",
        known: Mapping[str, float] | None = None,
        record: Collection[str] = (),
    ) -> None:
        self._submissions.put(_Submission(self, proposal, rows, known, record))

    def next(self) -> Finished:
        """See `Pool.next`.

        Raises:
            Interrupted: all runs must stop.
        """
        finished = self._finished.get()
        if finished is None:
            self.finish(None)  # the next call raises again
            raise Interrupted("another run stopped")
        return finished

    def poll(self, seconds: float) -> Finished | None:
        try:
            self._finished.put(self._finished.get(timeout=seconds))
        except Empty:
            return None
        return self.next()

    def fit(self, jobs: Sequence[FitJob], received: Callable[[FitResult], None]) -> None:
        """See `Pool.fit`.

        Raises:
            Interrupted: all runs must stop.
        """
        self._submissions.put(_Fits(self, jobs))
        for _ in jobs:
            result = self._fitted.get()
            if result is None:
                self.stop()  # the next call raises again
                raise Interrupted("another run stopped")
            try:
                received(result)
            except BaseException as error:
                self._recorded.put(error)
                raise
            self._recorded.put(None)

    def finish(self, finished: Finished | None) -> None:
        """Pass a result to the run; None: there will be no more."""
        self._finished.put(finished)

    def stop(self) -> None:
        """End the run's wait for results."""
        self.finish(None)
        self._fitted.put(None)

    def fitted(self, result: FitResult) -> None:
        """Pass a learned fit to the run, and wait until it has recorded it: the pool then forgets the fit's progress.

        Raises:
            Exception: the run's error; it ends with it, too.
        """
        self._fitted.put(result)
        error = self._recorded.get()
        if error is not None:
            raise error

    def close(self) -> None:
        """Does nothing: other runs use the pool."""


def run_in_parallel(pool: Pool, jobs: Sequence[Callable[[Pool], _Returned]], at_once: int) -> list[_Returned]:
    """The jobs' return values, in order. `at_once` jobs run at a time, in threads; only this thread uses `pool`.

    Raises:
        Interrupted: a signal arrived; the jobs were stopped.
        Exception: raised by the first job that failed; the others were stopped.
    """
    if at_once == 1:
        return [job(pool) for job in jobs]
    submissions: SimpleQueue[_Submission | _Fits] = SimpleQueue()
    views = [PoolView(submissions) for _ in jobs]
    with ThreadPoolExecutor(at_once, "run") as threads:
        started: list[Future[_Returned]] = []
        try:
            started += [threads.submit(job, view) for job, view in zip(jobs, views, strict=True)]
            _serve(pool, submissions, started)
        except BaseException:
            for each in started:
                each.cancel()
            for view in views:
                view.stop()
            raise
    return [each.result() for each in started]


def _serve(pool: Pool, submissions: SimpleQueue[_Submission | _Fits], started: Sequence[Future[_Returned]]) -> None:
    """Pass proposals to the pool and results to the jobs that wait for them, until all jobs are done or one fails.

    Fits wait until nothing is being evaluated: then those of all runs are learned at once, on all workers.
    """
    numbers, owners, fits = itertools.count(), dict[int, tuple[PoolView, int]](), list[_Fits]()
    while not all(each.done() for each in started):
        for failed in (each for each in started if each.done() and each.exception() is not None):
            failed.result()
        for each in _waiting(submissions, 0.0 if owners else POLL_SECONDS):
            if isinstance(each, _Fits):
                fits.append(each)
                continue
            number = next(numbers)
            owners[number] = each.view, each.proposal.number
            pool.submit(replace(each.proposal, number=number), each.rows, each.known, each.record)
        finished = pool.poll(POLL_SECONDS) if owners else None
        if finished is not None:
            view, number = owners.pop(finished.number)
            view.finish(replace(finished, number=number))
        if fits and not owners:
            _learn(pool, fits)
            fits.clear()


def _learn(pool: Pool, fits: Sequence[_Fits]) -> None:
    """Let the pool learn the fits of several runs, and pass each to its run."""
    owned = [(each.view, job) for each in fits for job in each.jobs]

    def received(result: FitResult) -> None:
        view, job = owned[result.number]
        view.fitted(replace(result, number=job.number))

    pool.fit([replace(job, number=number) for number, (_, job) in enumerate(owned)], received)


def _waiting(submissions: SimpleQueue[_Submission | _Fits], seconds: float) -> list[_Submission | _Fits]:
    """All submissions so far; waits up to `seconds` for the first."""
    waiting = []
    try:
        waiting.append(submissions.get(timeout=seconds) if seconds else submissions.get_nowait())
        while True:
            waiting.append(submissions.get_nowait())
    except Empty:
        return waiting
