"""The order of ask and tell with several evaluations in flight: the same whatever the timing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from cycleqd_merge.strategies.protocol import Proposal, Recalling, Result, Strategy

Item = TypeVar("Item")


class InOrder(Generic[Item]):
    """Holds what came early until its turn has come; turns are the numbers from `first` on."""

    def __init__(self, first: int) -> None:
        self._next = first
        self._early: dict[int, Item] = {}

    def take(self, number: int, item: Item) -> list[Item]:
        """Take an item; returns those whose turn this makes, in order."""
        self._early[number] = item
        due = []
        while self._next in self._early:
            due.append(self._early.pop(self._next))
            self._next += 1
        return due


class Schedule:
    """Asks a strategy ahead and tells it in order.

    With `in_flight` = W, number n is asked once n - W was told, never earlier and never later, so a run depends on
    its seed, W and the scores, not on which evaluation ended first.

    recorded: steps of the first proposals, where the run is restored.
    """

    def __init__(self, strategy: Strategy, in_flight: int, total: int, recorded: Sequence[dict[str, Any]] = ()) -> None:
        self._strategy, self._in_flight, self.total = strategy, in_flight, total
        self._recorded = recorded
        self._asked = 0
        self._told = 0

    @property
    def told(self) -> int:
        """How many results the strategy has taken."""
        return self._told

    @property
    def done(self) -> bool:
        """Whether every number below the total was told."""
        return self._told >= self.total

    def ready(self) -> list[Proposal]:
        """The proposals that may be asked now, each given out once."""
        proposals = []
        while self._asked < min(self.total, self._told + self._in_flight):
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
        """Tell the result whose turn it is and ask what its telling has opened."""
        self._strategy.tell(result)
        self._told += 1
        return self.ready()
