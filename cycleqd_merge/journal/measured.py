"""Scores of a run's models outside its search, such as on the held-out split: means with standard errors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from cycleqd_merge.evolution.candidate import Candidate, candidate_digest
from cycleqd_merge.journal.log import Event, of_kind
from cycleqd_merge.journal.outcomes import TaskOutcomes, decoded
from cycleqd_merge.journal.schema import Positive, Score


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean score over `samples`, with its standard error; None for a single sample.

    truncated: the share of answers that were cut at the token limit.
    """

    score: Score
    error: Score | None
    samples: Positive
    truncated: Score = 0.0

    @classmethod
    def of(cls, scores: Sequence[float], truncated: float = 0.0) -> Estimate:
        """The mean of the samples' scores."""
        count = len(scores)
        mean = sum(scores) / count
        squares = sum((score - mean) ** 2 for score in scores)
        return cls(mean, math.sqrt(squares / (count - 1) / count) if count > 1 else None, count, truncated)

    @classmethod
    def at_most(cls, score: float, samples: int) -> Estimate:
        """A mean whose samples are unknown: the error is exact for scores of 0 and 1, otherwise an upper bound."""
        return cls(score, math.sqrt(score * (1 - score) / (samples - 1)) if samples > 1 else None, samples)


Measured = dict[tuple[str, str], dict[str, Estimate]]
"""By digest of the candidate and split: an estimate per task."""


MeasuredOutcomes = dict[tuple[str, str], TaskOutcomes]
"""By digest of the candidate and split: the outcomes of the rows; empty where an earlier version recorded none."""


def measured_event(
    name: str, candidate: Candidate, rows: str, tasks: Mapping[str, Estimate], outcomes: Mapping[str, str] = {}
) -> Event:
    """The journal's record of a model scored on all rows of a split; `name` is its name at that time.

    outcomes: of the rows by task, as `journal.outcomes.outcomes_to_text` writes them.
    """
    values = {task: asdict(estimate) for task, estimate in tasks.items()}
    recorded = {"outcomes": dict(outcomes)} if outcomes else {}
    digest = candidate_digest(candidate)
    return {"event": "measured", "name": name, "candidate": digest, "rows": rows, "tasks": values, **recorded}


def measured_scores(events: Iterable[Event]) -> Measured:
    """All measured scores; of several for the same model and split, the last."""
    return {
        (event["candidate"], event["rows"]): {task: Estimate(**values) for task, values in event["tasks"].items()}
        for event in of_kind(events, "measured")
    }


def measured_outcomes(events: Iterable[Event], where: str) -> MeasuredOutcomes:
    """The outcomes of the rows behind `measured_scores`.

    Raises:
        RecipeError: they are damaged; `where` names the journal.
    """
    found: MeasuredOutcomes = {}
    for event in of_kind(events, "measured"):
        rows = {task: values["samples"] for task, values in event["tasks"].items()}
        means = {task: values["score"] for task, values in event["tasks"].items()}
        place = f"{where}: scores of {event.get('name', 'a model')!r:.50} on {event['rows']!r:.20}"
        found[event["candidate"], event["rows"]] = decoded(event.get("outcomes", {}), rows, means, place)
    return found
