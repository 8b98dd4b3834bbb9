"""The order of ask and tell with several evaluations in flight: the same whatever the timing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from cycleqd_merge.strategies.protocol import Proposal, Recalling, Result, Strategy

Item = TypeVar("Item")


class InOrder(Generic[Item]):
    """Releases numbered items in order, from number `first` on; an item that comes early is held back."""

    def __init__(self, first: int) -> None:
        self._next = first
        self._early: dict[int, Item] = {}

    def take(self, number: int, item: Item) -> list[Item]:
        """Add an item; returns the items that can be released now, in order."""
        self._early[number] = item
        due = []
        while self._next in self._early:
            due.append(self._early.pop(self._next))
            self._next += 1
        return due


class Schedule:
    """Asks a strategy for proposals and passes it the results, both in order of number.

    With `in_flight` = W, number n is asked for as soon as result n - W was received, never earlier or later. So a run
    depends on its seed, W and the scores, and not on which evaluation ends first.

    recorded: steps of the first proposals, if the run is restored.
    """

    def __init__(self, strategy: Strategy, in_flight: int, total: int, recorded: Sequence[dict[str, Any]] = ()) -> None:
        self._strategy, self._in_flight, self.total = strategy, in_flight, total
        self._recorded = recorded
        self._asked = 0
        self._received = 0

    @property
    def received(self) -> int:
        """The number of results that the strategy has received."""
        return self._received

    @property
    def done(self) -> bool:
        """Whether all results below `total` were received."""
        return self._received >= self.total

    def stop(self, least: int) -> None:
        """Ask for no more proposals than were asked for or recorded already, but for the first `least` in any case."""
        self.total = min(self.total, max(least, self._asked, len(self._recorded)))

    def ready(self) -> list[Proposal]:
        """The proposals that may be asked for now, each returned once."""
        proposals = []
        while self._asked < min(self.total, self._received + self._in_flight):
            proposal = self._ask(self._asked)
            if proposal is None:
                break
            self._asked += 1
            proposals.append(proposal)
        return proposals

    def _ask(self, number: int) -> Proposal | None:
        if number < len(self._recorded) and isinstance(self._strategy, Recalling):
            return self._strategy.recall(number, self._recorded[number])
        return self._strategy.ask(number)

    def tell(self, result: Result) -> list[Proposal]:
        """Pass the strategy the next result; returns the proposals that may be asked for after it."""
        self._strategy.tell(result)
        self._received += 1
        return self.ready()
