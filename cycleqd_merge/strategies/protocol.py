"""The contract between a search strategy and whoever evaluates its candidates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from cycleqd_merge.evolution.archive import Scores
from cycleqd_merge.evolution.candidate import Candidate
from cycleqd_merge.strategies.racing import Race


@dataclass(frozen=True)
class Proposal:
    """A candidate to evaluate. `step` says how it came to be, as JSON values for the journal.

    race: what it must prove on the first of its rows to be scored on all; None: it is scored on all anyway.
    """

    number: int
    candidate: Candidate
    step: dict[str, Any]
    race: Race | None = None


@dataclass(frozen=True)
class Result:
    """Scores in the order of the tasks, each in [0, 1]; None if the evaluation failed for good or lost its race."""

    number: int
    scores: Scores | None


class Strategy(Protocol):
    """Proposes candidates and learns from their scores.

    A strategy is a function of its settings, its seed and the results told, nothing else: no clock, no shared
    generator. It is restored by asking and telling again in the same order. One that has only so many candidates says
    how many, beside the founders, in an attribute `generations`.
    """

    def ask(self, number: int) -> Proposal | None:
        """Proposal number `number` (0, 1, 2 ...), asked in ascending order; None means: tell more results first."""
        ...

    def tell(self, result: Result) -> None:
        """Take the result of an asked proposal. Results are told in ascending order of their numbers."""
        ...


@runtime_checkable
class Recalling(Protocol):
    """A strategy whose proposals hang on the last bits of linear algebra, which differ from machine to machine."""

    def recall(self, number: int, step: dict[str, Any]) -> Proposal | None:
        """`Strategy.ask` while a run is restored: the proposal is the one that was recorded with this `step`."""
        ...
