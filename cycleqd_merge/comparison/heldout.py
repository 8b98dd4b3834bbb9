"""The rows that judge: opened once, after every search has ended and every entrant is chosen.

They are the held-out rows, or, where operators are tuned, rows of the search split that no search has seen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cycleqd_merge.comparison.results import Opening
from cycleqd_merge.errors import Interrupted, UserError
from cycleqd_merge.evaluation.pools.pool import Finished, Pool
from cycleqd_merge.evaluation.worker import Evaluation
from cycleqd_merge.evolution.candidate import Candidate, candidate_digest
from cycleqd_merge.journal.log import Event, Journal, of_kind
from cycleqd_merge.strategies.protocol import Proposal
from cycleqd_merge.tasks.protocol import Split

Told = Callable[[int, int], None]
"""Called with how many models were scored, and of how many."""


@dataclass(frozen=True)
class HeldOut:
    """What a model did on the held-out rows: by task, a score per row, and the share of answers that were cut."""

    scores: Mapping[str, tuple[float, ...]]
    truncated: Mapping[str, float]


def open_rows(journal: Journal, frozen: Mapping[str, Sequence[str]], rows: Split) -> Opening:
    """Record that the rows are opened now, and for whom: digests by entrant.

    Raises:
        UserError: they were opened already, for others.
    """
    wanted = {name: list(digests) for name, digests in frozen.items()}
    for event in of_kind(journal.events, "opened"):
        if event["frozen"] != wanted:
            raise UserError(
                f"{journal.folder}: the rows that judge were opened at {event['at']} for other models; they are opened "
                "once: compare other searches or budgets in another folder (--output)"
            )
        return _opening(event, rows)
    at = datetime.now(UTC).isoformat(timespec="seconds")
    journal.append({"event": "opened", "at": at, "frozen": wanted})
    return _opening(journal.events[-1], rows)


def _opening(event: Event, rows: Split) -> Opening:
    return Opening(event["at"], {name: tuple(digests) for name, digests in event["frozen"].items()}, rows)


def score_heldout(
    journal: Journal,
    pool: Pool,
    candidates: Sequence[Candidate],
    rows: Split,
    told: Told,
    deadline: float | None = None,
) -> dict[str, HeldOut | None]:
    """What every candidate does on the rows that judge, by digest; scored are those that the journal does not have.

    None for one that cannot be scored. deadline: a `time.monotonic()` instant at which to stop.

    Raises:
        Interrupted: the deadline has passed; what was scored is recorded.
    """
    scored = read_scored(journal.events)
    missing = {candidate_digest(each): each for each in candidates}
    missing = {digest: each for digest, each in missing.items() if digest not in scored}
    for number, candidate in enumerate(missing.values()):
        pool.submit(Proposal(number, candidate, {}), rows)
    digests = list(missing)
    for done in range(1, len(missing) + 1):
        if deadline is not None and time.monotonic() > deadline:
            raise Interrupted("the time limit is reached")
        event = _event(digests, pool.next())
        journal.append(event)
        scored[event["candidate"]] = _read(event)
        told(done, len(missing))
    return scored


def read_scored(events: Sequence[Event]) -> dict[str, HeldOut | None]:
    """What a comparison's journal says of the rows that judged, by digest; None of what could not be scored."""
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


def _read(event: Event) -> HeldOut | None:
    tasks = event["tasks"]
    if tasks is None:
        return None
    return HeldOut(
        {task: tuple(own["scores"]) for task, own in tasks.items()},
        {task: own["truncated"] for task, own in tasks.items()},
    )
