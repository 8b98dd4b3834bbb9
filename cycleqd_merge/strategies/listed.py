"""Candidates that are known in advance, evaluated one after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cycleqd_merge.evolution.candidate import Candidate
from cycleqd_merge.strategies.protocol import Proposal, Result
from cycleqd_merge.strategies.state import SearchState


class Listed:
    """A strategy that proposes the given candidates in order and then ends.

    candidates: each with its step, as JSON values for the journal.
    """

    def __init__(self, state: SearchState, candidates: Sequence[tuple[Candidate, dict[str, Any]]]) -> None:
        self.state, self._candidates = state, candidates
        self.generations = len(candidates)

    def ask(self, number: int) -> Proposal | None:
        """See `Strategy.ask`."""
        if number < self.state.first:
            return self.state.founder(number)
        candidate, step = self._candidates[number - self.state.first]
        return self.state.propose(number, candidate, step)

    def tell(self, result: Result) -> None:
        """See `Strategy.tell`."""
        self.state.tell(result)
