"""The contract between a search strategy and whoever evaluates its candidates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from cycleqd_merge.evolution.archive import Scores
from cycleqd_merge.evolution.genome import Genome


@dataclass(frozen=True)
class MergeConfiguration:
    """A candidate that mergekit itself builds: the text of a mergekit YAML configuration."""

    yaml: str


Candidate = Genome | MergeConfiguration


@dataclass(frozen=True)
class Proposal:
    """A candidate to evaluate. `step` says how it came to be, as JSON values for the journal."""

    number: int
    candidate: Candidate
    step: dict[str, Any]


@dataclass(frozen=True)
class Result:
    """Scores in the order of the tasks, each in [0, 1]; None if the evaluation failed for good."""

    number: int
    scores: Scores | None


class Strategy(Protocol):
    """Proposes candidates and learns from their scores.

    A strategy is a function of its settings, its seed and the results told, nothing else: no clock, no shared
    generator. It is restored by asking and telling again in the same order.
    """

    def ask(self, number: int) -> Proposal | None:
        """Proposal number `number` (0, 1, 2 ...), asked in ascending order; None means: tell more results first."""
        ...

    def tell(self, result: Result) -> None:
        """Take the result of an asked proposal. Results are told in ascending order of their numbers."""
        ...
