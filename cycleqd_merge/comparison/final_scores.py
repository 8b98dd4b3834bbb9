"""Scores on the final split, opened once after every run has ended and every model to score is chosen.

The final split is the held-out split or, to tune operators, the confirmation split, which no strategy has used.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cycleqd_merge.comparison.results import SplitOpening
from cycleqd_merge.errors import Interrupted, RecipeError
from cycleqd_merge.evolution.candidate import Candidate, candidate_digest
from cycleqd_merge.journal.log import Event, Journal, of_kind
from cycleqd_merge.strategies.protocol import Proposal
from cycleqd_merge.tasks.protocol import SPLIT_NAMES, Split

if TYPE_CHECKING:
    from cycleqd_merge.evaluation.pools.pool import Finished, Pool
    from cycleqd_merge.evaluation.worker import Evaluation

FinalProgress = Callable[[str, int, int], None]
"""Called with the final split's name, the number of models scored, and their total."""


@dataclass(frozen=True)
class FinalScores:
    """A candidate on the final split: by task, a score per row, and the share of answers that were cut off."""

    scores: Mapping[str, tuple[float, ...]]
    truncated: Mapping[str, float]


def open_split(journal: Journal, chosen: Mapping[str, Sequence[str]], rows: Split) -> SplitOpening:
    """Record that the final split is opened now, and for which candidates: digests by model.

    Raises:
        RecipeError: it was opened before, for different models.
    """
    wanted = {name: list(digests) for name, digests in chosen.items()}
    for event in of_kind(journal.events, "opened"):
        if event["frozen"] != wanted:
            raise RecipeError(
                f"{journal.folder}: the {SPLIT_NAMES[rows]} was opened at {event['at']} for different models, and can "
                "be opened only once; use a different folder for other strategies or budgets (--output)"
            )
        return _opening(event, rows)
    at = datetime.now(UTC).isoformat(timespec="seconds")
    journal.append({"event": "opened", "at": at, "frozen": wanted})
    return _opening(journal.events[-1], rows)


def _opening(event: Event, rows: Split) -> SplitOpening:
    return SplitOpening(event["at"], {name: tuple(digests) for name, digests in event["frozen"].items()}, rows)


def score_candidates(
    journal: Journal,
    pool: Pool,
    candidates: Sequence[Candidate],
    rows: Split,
    progress: FinalProgress,
    deadline: float | None = None,
) -> dict[str, FinalScores | None]:
    """Scores of every candidate on the final split, by digest; scores in the journal are not measured again.

    None for a candidate that cannot be scored. deadline: a `time.monotonic()` instant at which to stop.

    Raises:
        Interrupted: the deadline has passed; the scores so far are recorded.
    """
    scored, missing = read_scores(journal.events), unscored(journal, candidates)
    for number, candidate in enumerate(missing.values()):
        pool.submit(Proposal(number, candidate, {}), rows)
    digests = list(missing)
    for done in range(1, len(missing) + 1):
        if deadline is not None and time.monotonic() > deadline:
            raise Interrupted("time limit reached")
        event = _event(digests, pool.next())
        journal.append(event)
        scored[event["candidate"]] = _read(event)
        progress(SPLIT_NAMES[rows], done, len(missing))
    return scored


def unscored(journal: Journal, candidates: Sequence[Candidate]) -> dict[str, Candidate]:
    """The candidates that have no scores in the journal, by digest."""
    scored = read_scores(journal.events)
    missing = {candidate_digest(each): each for each in candidates}
    return {digest: each for digest, each in missing.items() if digest not in scored}


def read_scores(events: Sequence[Event]) -> dict[str, FinalScores | None]:
    """The scores that a comparison's journal records, by digest; None for candidates that could not be scored."""
    return {event["candidate"]: _read(event) for event in of_kind(events, "heldout")}


def _event(digests: Sequence[str], finished: Finished) -> Event:
    event: Event = {"event": "heldout", "candidate": digests[finished.number]}
    if finished.evaluation is None:
        return {**event, "tasks": None, "error": finished.error}
    return {**event, "tasks": _tasks(finished.evaluation)}


def _tasks(evaluation: Evaluation) -> dict[str, Any]:
    return {
        task: {"scores": [outcome.score for outcome in result.outcomes], "truncated": result.truncated}
        for task, result in evaluation.results.items()
    }


def _read(event: Event) -> FinalScores | None:
    tasks = event["tasks"]
    if tasks is None:
        return None
    return FinalScores(
        {task: tuple(own["scores"]) for task, own in tasks.items()},
        {task: own["truncated"] for task, own in tasks.items()},
    )
