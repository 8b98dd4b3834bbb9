"""Two sources of children that fill the same archives: an emitter, and CycleQD's operators."""

from __future__ import annotations

from typing import Any, Protocol

from cycleqd_merge.evolution.draws import generator
from cycleqd_merge.evolution.genome import Matrix
from cycleqd_merge.strategies.cycleqd import CycleQD
from cycleqd_merge.strategies.protocol import Proposal, Result
from cycleqd_merge.strategies.state import Insertion


class Emitter(Protocol):
    """Creates children once the archives are open."""

    def emit(self, number: int, recorded: Matrix | None = None) -> Proposal | None:
        """The next child, under `number`; None if the emitter must receive more results first.

        recorded: coefficients, shape (dimensions,), that replace the child's own.
        """
        ...

    def learn(self, number: int, insertion: Insertion) -> None:
        """Receive a child's insertion into the archives, from either source."""
        ...


class Mixed:
    """A strategy that creates a share of its children by CycleQD's operators and takes the others from an emitter.

    The source is drawn by the child's number, so it never depends on what is in flight. Warm starts come first.
    """

    def __init__(self, emitter: Emitter, cycleqd: CycleQD, share: float) -> None:
        self.state, self._emitter, self._cycleqd, self._share = cycleqd.state, emitter, cycleqd, share

    def ask(self, number: int) -> Proposal | None:
        """See `Strategy.ask`."""
        return self.recall(number, {})

    def recall(self, number: int, step: dict[str, Any]) -> Proposal | None:
        """See `Recalling.recall`."""
        opening = self.state.opening(number)
        if opening is not None or not self.state.archives:
            return opening
        if generator(self._cycleqd.seed, number, "bred").random() < self._share:
            return self._cycleqd.create_child(number)
        return self._emitter.emit(number, self.state.recorded(step))

    def tell(self, result: Result) -> None:
        """See `Strategy.tell`."""
        insertion = self.state.tell(result)
        self._cycleqd.learn(result.number, insertion)
        self._emitter.learn(result.number, insertion)
