"""Two ways of making children that fill the same archives: an emitter's, and CycleQD's operators."""

from __future__ import annotations

from typing import Any, Protocol

from cycleqd_merge.evolution.draws import generator
from cycleqd_merge.evolution.genome import Matrix
from cycleqd_merge.strategies.cycleqd import CycleQD
from cycleqd_merge.strategies.protocol import Proposal, Result
from cycleqd_merge.strategies.space import Insertion


class Emitter(Protocol):
    """Makes children once the archives are open."""

    def emit(self, number: int, recorded: Matrix | None = None) -> Proposal | None:
        """Its next child, under `number`; None means: tell more results first.

        recorded: coefficients, shape (dimensions,), that the child has in place of those that it would have.
        """
        ...

    def learn(self, number: int, admission: Insertion) -> None:
        """Take what became of a child, whoever made it."""
        ...


class Mixed:
    """A strategy that breeds a share of its children from the archives and takes the others from an emitter.

    Which way a child is made is drawn by its number, so it never depends on what is in flight. Warm starts come first.
    """

    def __init__(self, emitter: Emitter, breeder: CycleQD, share: float) -> None:
        self.space, self._emitter, self._breeder, self._share = breeder.space, emitter, breeder, share

    def ask(self, number: int) -> Proposal | None:
        """See `Strategy.ask`."""
        return self.recall(number, {})

    def recall(self, number: int, step: dict[str, Any]) -> Proposal | None:
        """See `Recalling.recall`."""
        opening = self.space.opening(number)
        if opening is not None or not self.space.archives:
            return opening
        if generator(self._breeder.seed, number, "bred").random() < self._share:
            return self._breeder.breed(number)
        return self._emitter.emit(number, self.space.recorded(step))

    def tell(self, result: Result) -> None:
        """See `Strategy.tell`."""
        admission = self.space.tell(result)
        self._breeder.learn(result.number, admission)
        self._emitter.learn(result.number, admission)
