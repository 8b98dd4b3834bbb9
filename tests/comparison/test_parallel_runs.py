"""Runs at the same time: each gets its own results, one thread uses the pool, and a run that fails stops all."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence

import pytest

from cycleqd_merge.comparison.parallel_runs import run_in_parallel
from cycleqd_merge.errors import Interrupted, RunFailed
from cycleqd_merge.evaluation.pools.pool import Finished, Pool
from cycleqd_merge.evolution.candidate import MergekitConfiguration
from cycleqd_merge.fitting.job import FitJob, FitResult
from cycleqd_merge.fitting.training import FitSettings
from cycleqd_merge.strategies.protocol import Proposal
from cycleqd_merge.tasks.protocol import Split


class Shuffled:
    """A pool that returns results in any order; the error of each is its candidate's text."""

    def __init__(self, fails_after: int | None = None) -> None:
        self._random, self._waiting = random.Random(0), list[Proposal]()
        self._left = fails_after
        self.threads = set[int]()
        self.fits = list[int]()
        self.most = 0

    def submit(
        self,
        proposal: Proposal,
        rows: Split = "search",
        known: Mapping[str, float] | None = None,
        record: Collection[str] = (),
    ) -> None:
        self.threads.add(threading.get_ident())
        self._waiting.append(proposal)
        self.most = max(self.most, len(self._waiting))

    def next(self) -> Finished:
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                raise KeyboardInterrupt
        self.threads.add(threading.get_ident())
        ended = self._waiting.pop(self._random.randrange(len(self._waiting)))
        assert isinstance(ended.candidate, MergekitConfiguration)
        return Finished(ended.number, None, ended.candidate.yaml)

    def poll(self, seconds: float) -> Finished | None:
        if self._random.random() < 0.3:
            time.sleep(seconds / 10)
            return None
        return self.next() if self._waiting else None

    def fit(self, jobs: Sequence[FitJob], received: Callable[[FitResult], None]) -> None:
        assert not self._waiting
        self.fits.append(len(jobs))
        for job in self._random.sample(jobs, len(jobs)):
            received(FitResult(job.number, str(job.start).encode(), (), 0, {}))

    def close(self) -> None:
        raise AssertionError("the pool stays open")


def learn(name: str) -> Callable[[Pool], dict[int, bytes]]:
    """A job that evaluates a proposal, learns two fits, and returns the content of each."""

    def job(pool: Pool) -> dict[int, bytes]:
        pool.submit(Proposal(0, MergekitConfiguration(name), {}))
        assert pool.next().error == name
        contents: dict[int, bytes] = {}
        jobs = [FitJob(number, (), FitSettings(), start=f"{name} {number}") for number in range(2)]
        pool.fit(jobs, lambda result: contents.update({result.number: result.content}))
        return contents

    return job


def run(name: str, count: int = 12, in_flight: int = 3) -> Callable[[Pool], dict[int, str | None]]:
    """A job that keeps `in_flight` proposals in flight and returns the error of each."""

    def job(pool: Pool) -> dict[int, str | None]:
        errors: dict[int, str | None] = {}
        for number in range(in_flight):
            pool.submit(Proposal(number, MergekitConfiguration(f"{name} {number}"), {}))
        for number in range(in_flight, count + in_flight):
            finished = pool.next()
            assert finished.number not in errors
            errors[finished.number] = finished.error
            if number < count:
                pool.submit(Proposal(number, MergekitConfiguration(f"{name} {number}"), {}))
        return errors

    return job


@pytest.mark.parametrize("at_once", [1, 2, 5, 9])
def test_each_run_gets_the_results_of_its_proposals(at_once: int) -> None:
    pool = Shuffled()
    errors = run_in_parallel(pool, [run(f"run {number}") for number in range(5)], at_once)
    assert errors == [{number: f"run {job} {number}" for number in range(12)} for job in range(5)]
    assert pool.threads == {threading.get_ident()}
    assert 3 <= pool.most <= 3 * at_once


def test_a_run_that_fails_stops_the_others() -> None:
    stopped = []

    def fails(pool: Pool) -> dict[int, str | None]:
        run("before", count=3)(pool)
        raise RunFailed("cannot continue")

    def continues(pool: Pool) -> dict[int, str | None]:
        try:
            return run("other", count=10**9)(pool)
        except Interrupted:
            stopped.append(pool)
            raise

    with pytest.raises(RunFailed, match="cannot continue"):
        run_in_parallel(Shuffled(), [continues, fails, continues], at_once=3)
    assert len(stopped) == 2


def test_a_signal_stops_all_and_starts_no_other() -> None:
    started = []

    def job(pool: Pool) -> dict[int, str | None]:
        started.append(pool)
        return run("one", count=10**9)(pool)

    with pytest.raises(KeyboardInterrupt):
        run_in_parallel(Shuffled(fails_after=20), [job] * 4, at_once=2)
    assert len(started) == 2


def test_a_run_that_got_no_result_can_poll_again() -> None:
    def patient(pool: Pool) -> str | None:
        assert pool.poll(0.01) is None
        pool.submit(Proposal(7, MergekitConfiguration("late"), {}))
        while (finished := pool.poll(0.05)) is None:
            pass
        return finished.error if finished.number == 7 else None

    assert run_in_parallel(Shuffled(), [patient, patient], at_once=2) == ["late", "late"]


def test_fits_of_all_runs_are_learned_at_once() -> None:
    pool = Shuffled()
    busy = run("busy", count=100)  # its evaluations delay the fits until all runs wait for theirs
    _, *learned = run_in_parallel(pool, [busy, *(learn(f"run {number}") for number in range(5))], 6)
    assert learned == [{fit: f"run {number} {fit}".encode() for fit in range(2)} for number in range(5)]
    assert sum(pool.fits) == 10
    assert len(pool.fits) <= 2


class Recording(Shuffled):
    """A pool that counts how many fits were `recorded` whenever a run has received one."""

    def __init__(self, recorded: list[int]) -> None:
        super().__init__()
        self._recorded, self.counts = recorded, list[int]()

    def fit(self, jobs: Sequence[FitJob], received: Callable[[FitResult], None]) -> None:
        for job in jobs:
            received(FitResult(job.number, b"", (), 0, {}))
            self.counts.append(len(self._recorded))


def test_a_pool_keeps_a_fit_until_its_run_has_recorded_it() -> None:
    recorded: list[int] = []

    def job(pool: Pool) -> None:
        def record(result: FitResult) -> None:
            time.sleep(0.02)
            recorded.append(result.number)

        pool.fit([FitJob(number, (), FitSettings()) for number in range(3)], record)

    pool = Recording(recorded)
    run_in_parallel(pool, [job, job], at_once=2)
    assert pool.counts == [1, 2, 3, 4, 5, 6]


def test_a_run_that_cannot_record_a_fit_stops_all() -> None:
    def job(pool: Pool) -> None:
        def refuse(result: FitResult) -> None:
            raise RunFailed("diverges")

        pool.fit([FitJob(number, (), FitSettings()) for number in range(3)], refuse)

    pool = Recording([])
    with pytest.raises(RunFailed, match="diverges"):
        run_in_parallel(pool, [job, job], at_once=2)
    assert not pool.counts
