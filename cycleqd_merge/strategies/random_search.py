"""Random search: the rival that every search must beat."""

from __future__ import annotations

from cycleqd_merge.evolution.draws import generator
from cycleqd_merge.evolution.genome import coefficient_genome
from cycleqd_merge.strategies.protocol import Proposal, Result
from cycleqd_merge.strategies.space import SearchSpace


class RandomSearch:
    """Coefficients drawn from U(low, high), each child by its own."""

    def __init__(self, space: SearchSpace, seed: int, low: float, high: float) -> None:
        self.space, self.seed, self.low, self.high = space, seed, low, high

    def ask(self, number: int) -> Proposal | None:
        """See `Strategy.ask`."""
        if number < self.space.first:
            return self.space.founder(number)
        shape = (self.space.experts, self.space.groups)
        drawn = generator(self.seed, number).uniform(self.low, self.high, size=shape)
        return self.space.propose(number, coefficient_genome(drawn), {})

    def tell(self, result: Result) -> None:
        """See `Strategy.tell`."""
        self.space.tell(result)
