"""Two ways of making children that fill the same archives: an optimiser's populations, and CycleQD's operators."""

from __future__ import annotations

from cycleqd_merge.evolution.cycleqd import CycleQD
from cycleqd_merge.evolution.draws import generator
from cycleqd_merge.evolution.populations import Populations
from cycleqd_merge.evolution.strategy import Proposal, Result


class Mixed:
    """A strategy that breeds a share of its children from the archives and takes the others from an optimiser.

    Which way a child is made is drawn by its number, so it never depends on what is in flight. Warm starts come first.
    """

    def __init__(self, populations: Populations, breeder: CycleQD, share: float) -> None:
        self.space, self._populations, self._breeder, self._share = breeder.space, populations, breeder, share

    def ask(self, number: int) -> Proposal | None:
        """See `Strategy.ask`."""
        opening = self.space.opening(number)
        if opening is not None or not self.space.archives:
            return opening
        bred = generator(self._breeder.seed, number, "bred").random() < self._share
        return self._breeder.breed(number) if bred else self._populations.emit(number)

    def tell(self, result: Result) -> None:
        """See `Strategy.tell`."""
        admission = self.space.tell(result)
        self._breeder.learn(result.number, admission)
        self._populations.learn(result.number, admission)
