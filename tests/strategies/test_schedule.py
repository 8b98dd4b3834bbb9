"""With several evaluations in flight a run depends on seed, number in flight and scores; never on timing."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from cycleqd_merge.evolution.genome import Genome
from cycleqd_merge.strategies.protocol import Proposal, Result
from cycleqd_merge.strategies.schedule import InOrder, Schedule
from tests.evolution.references import snapshot, synthetic_scores
from tests.strategies.test_cycleqd import strategy

TOTAL = 30


class Watched:
    """A strategy that records the calls of `ask` and `tell`."""

    def __init__(self) -> None:
        self._inner = strategy(3)
        self.state = self._inner.state
        self.calls: list[tuple[str, int]] = []

    def ask(self, number: int) -> Proposal | None:
        proposal = self._inner.ask(number)
        if proposal is not None:
            self.calls.append(("ask", number))
        return proposal

    def tell(self, result: Result) -> None:
        self.calls.append(("tell", result.number))
        self._inner.tell(result)


def run(in_flight: int, order: random.Random | None) -> Watched:
    """A whole run whose evaluations end in random order, or in order of number if `order` is None."""
    watched = Watched()
    schedule = Schedule(watched, in_flight, TOTAL)
    in_order: InOrder[Result] = InOrder(0)
    flying = schedule.ready()
    while not schedule.done:
        assert 0 < len(flying) <= in_flight
        proposal = flying.pop(order.randrange(len(flying)) if order else 0)
        assert isinstance(proposal.candidate, Genome)
        ended = Result(proposal.number, synthetic_scores(proposal.candidate, 3))
        for result in in_order.take(ended.number, ended):
            flying += schedule.tell(result)
    return watched


@pytest.mark.parametrize("in_flight", [1, 2, 4, 7])
@hypothesis_settings(max_examples=15)
@given(order=st.randoms(use_true_random=False))
def test_the_order_in_which_evaluations_end_does_not_matter(in_flight: int, order: random.Random) -> None:
    mixed, straight = run(in_flight, order), run(in_flight, None)
    assert mixed.calls == straight.calls
    assert snapshot(mixed.state.archives) == snapshot(straight.state.archives)
    assert [mixed.state.genome(n) for n in range(TOTAL)] == [straight.state.genome(n) for n in range(TOTAL)]


@pytest.mark.parametrize("in_flight", [1, 2, 4, 7])
def test_a_number_is_asked_as_soon_as_the_result_in_flight_numbers_before_is_received(in_flight: int) -> None:
    received = 0
    for call, number in run(in_flight, None).calls:
        if call == "tell":
            received += 1
        else:  # children also wait for all three experts
            assert received == max(0 if number < 3 else 3, number - in_flight + 1)


def test_in_flight_changes_the_run() -> None:
    assert snapshot(run(1, None).state.archives) != snapshot(run(4, None).state.archives)


def test_every_number_is_asked_and_told_once() -> None:
    calls = run(4, random.Random(1)).calls
    for kind in ("ask", "tell"):
        assert [number for call, number in calls if call == kind] == list(range(TOTAL))


@given(st.permutations(range(10, 20)))
def test_early_items_wait_for_their_turn(order: list[int]) -> None:
    in_order: InOrder[str] = InOrder(10)
    released: list[str] = []
    for place, number in enumerate(order, start=1):
        released += in_order.take(number, str(number))
        arrived = set(order[:place])
        turn = next(number for number in range(10, 21) if number not in arrived)
        assert released == [str(number) for number in range(10, turn)]


def test_a_schedule_of_nothing_is_done() -> None:
    schedule = Schedule(strategy(3), 2, 0)
    assert schedule.done
    assert schedule.ready() == []
