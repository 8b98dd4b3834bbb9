"""Two ways of making children that fill the same archives: an emitter's, and CycleQD's operators."""

from __future__ import annotations

from typing import Any, Protocol

from cycleqd_merge.evolution.cycleqd import CycleQD
from cycleqd_merge.evolution.draws import generator
from cycleqd_merge.evolution.space import Admission
from cycleqd_merge.evolution.strategy import Proposal, Result


class Emitter(Protocol):
    """Makes children once the archives are open."""

    def emit(self, number: int) -> Proposal | None:
        """Its next child, under `number`; None means: tell more results first."""
        ...

    def emit_again(self, number: int, step: dict[str, Any]) -> Proposal | None:
        """The child that was emitted with this `step`, in the place of the one that would be emitted now."""
        ...

    def learn(self, number: int, admission: Admission) -> None:
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
        opening = self.space.opening(number)
        if opening is not None or not self.space.archives:
            return opening
        bred = generator(self._breeder.seed, number, "bred").random() < self._share
        return self._breeder.breed(number) if bred else self._emitter.emit(number)

    def recall(self, number: int, step: dict[str, Any]) -> Proposal | None:
        """See `Recalling.recall`."""
        return self._emitter.emit_again(number, step) if "coefficients" in step else self.ask(number)

    def tell(self, result: Result) -> None:
        """See `Strategy.tell`."""
        admission = self.space.tell(result)
        self._breeder.learn(result.number, admission)
        self._emitter.learn(result.number, admission)
