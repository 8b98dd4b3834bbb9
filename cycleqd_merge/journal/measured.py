"""What models of a run scored outside its search, such as on held-out rows: means with their standard errors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from cycleqd_merge.evolution.candidate import Candidate, candidate_digest
from cycleqd_merge.journal.log import Event, of_kind


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean score over `samples`, with its standard error; None where one sample tells nothing of the spread.

    truncated: the share of answers that the token limit cut.
    """

    score: float
    error: float | None
    samples: int
    truncated: float = 0.0

    @classmethod
    def of(cls, scores: Sequence[float], truncated: float = 0.0) -> Estimate:
        """The mean of the samples' scores."""
        count = len(scores)
        mean = sum(scores) / count
        squares = sum((score - mean) ** 2 for score in scores)
        return cls(mean, math.sqrt(squares / (count - 1) / count) if count > 1 else None, count, truncated)

    @classmethod
    def at_most(cls, score: float, samples: int) -> Estimate:
        """A mean of which the samples are not known: the error is exact for scores of 0 and 1, else an upper bound."""
        return cls(score, math.sqrt(score * (1 - score) / (samples - 1)) if samples > 1 else None, samples)


Measured = dict[tuple[str, str], dict[str, Estimate]]
"""By digest of the candidate and kind of rows: an estimate per task."""


def measured_event(name: str, candidate: Candidate, rows: str, tasks: Mapping[str, Estimate]) -> Event:
    """The journal's record of a model scored in full on `rows`; `name` is what it was called when it was scored."""
    values = {task: asdict(estimate) for task, estimate in tasks.items()}
    return {"event": "measured", "name": name, "candidate": candidate_digest(candidate), "rows": rows, "tasks": values}


def measured_of(events: Iterable[Event]) -> Measured:
    """All that was measured; of the same model on the same rows, the last."""
    return {
        (event["candidate"], event["rows"]): {task: Estimate(**values) for task, values in event["tasks"].items()}
        for event in of_kind(events, "measured")
    }
