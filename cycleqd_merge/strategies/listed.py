"""Candidates that are known beforehand, evaluated one after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cycleqd_merge.evolution.candidate import Candidate
from cycleqd_merge.strategies.protocol import Proposal, Result
from cycleqd_merge.strategies.space import SearchSpace


class Listed:
    """A strategy that proposes given candidates in their order and then is at its end.

    candidates: each with its step, as JSON values for the journal.
    """

    def __init__(self, space: SearchSpace, candidates: Sequence[tuple[Candidate, dict[str, Any]]]) -> None:
        self.space, self._candidates = space, candidates
        self.generations = len(candidates)

    def ask(self, number: int) -> Proposal | None:
        """See `Strategy.ask`."""
        if number < self.space.first:
            return self.space.founder(number)
        candidate, step = self._candidates[number - self.space.first]
        return self.space.propose(number, candidate, step)

    def tell(self, result: Result) -> None:
        """See `Strategy.tell`."""
        self.space.tell(result)
