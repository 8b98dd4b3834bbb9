"""Searches side by side: each gets its own results back, the pool hears one thread, and one that fails stops all."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping

import pytest

from cycleqd_merge.comparison.side_by_side import side_by_side
from cycleqd_merge.errors import Interrupted, RunFailed
from cycleqd_merge.evaluation.pools.pool import Finished, Pool
from cycleqd_merge.evolution.candidate import MergekitConfiguration
from cycleqd_merge.strategies.protocol import Proposal
from cycleqd_merge.tasks.protocol import Split


class Shuffled:
    """A pool that ends what was submitted in any order; what it says of a proposal is its candidate's text."""

    def __init__(self, fails_after: int | None = None) -> None:
        self._random, self._waiting = random.Random(0), list[Proposal]()
        self._left = fails_after
        self.threads = set[int]()
        self.most = 0

    def submit(self, proposal: Proposal, rows: Split = "search", known: Mapping[str, float] | None = None) -> None:
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

    def close(self) -> None:
        raise AssertionError("the pool stays open")


def search(name: str, count: int = 12, in_flight: int = 3) -> Callable[[Pool], dict[int, str | None]]:
    """A job that keeps so many proposals in flight and returns what was said of each."""

    def job(pool: Pool) -> dict[int, str | None]:
        said: dict[int, str | None] = {}
        for number in range(in_flight):
            pool.submit(Proposal(number, MergekitConfiguration(f"{name} {number}"), {}))
        for number in range(in_flight, count + in_flight):
            finished = pool.next()
            assert finished.number not in said
            said[finished.number] = finished.error
            if number < count:
                pool.submit(Proposal(number, MergekitConfiguration(f"{name} {number}"), {}))
        return said

    return job


@pytest.mark.parametrize("at_once", [1, 2, 5, 9])
def test_each_search_gets_what_it_submitted(at_once: int) -> None:
    pool = Shuffled()
    said = side_by_side(pool, [search(f"search {number}") for number in range(5)], at_once)
    assert said == [{number: f"search {job} {number}" for number in range(12)} for job in range(5)]
    assert pool.threads == {threading.get_ident()}
    assert 3 <= pool.most <= 3 * at_once


def test_a_search_that_fails_stops_the_others() -> None:
    stopped = []

    def fails(pool: Pool) -> dict[int, str | None]:
        search("before", count=3)(pool)
        raise RunFailed("it cannot go on")

    def goes_on(pool: Pool) -> dict[int, str | None]:
        try:
            return search("other", count=10**9)(pool)
        except Interrupted:
            stopped.append(pool)
            raise

    with pytest.raises(RunFailed, match="it cannot go on"):
        side_by_side(Shuffled(), [goes_on, fails, goes_on], at_once=3)
    assert len(stopped) == 2


def test_a_signal_stops_all_and_begins_no_other() -> None:
    begun = []

    def job(pool: Pool) -> dict[int, str | None]:
        begun.append(pool)
        return search("one", count=10**9)(pool)

    with pytest.raises(KeyboardInterrupt):
        side_by_side(Shuffled(fails_after=20), [job] * 4, at_once=2)
    assert len(begun) == 2


def test_a_search_that_waits_for_nothing_can_look_again_later() -> None:
    def patient(pool: Pool) -> str | None:
        assert pool.poll(0.01) is None
        pool.submit(Proposal(7, MergekitConfiguration("late"), {}))
        while (finished := pool.poll(0.05)) is None:
            pass
        return finished.error if finished.number == 7 else None

    assert side_by_side(Shuffled(), [patient, patient], at_once=2) == ["late", "late"]
