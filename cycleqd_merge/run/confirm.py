"""Confirming elites: they are maxima of noisy scores, so the best are scored again on the confirmation split."""

from __future__ import annotations

import time

from cycleqd_merge.errors import Interrupted
from cycleqd_merge.evaluation.pools.pool import Pool
from cycleqd_merge.journal.log import Event, Journal
from cycleqd_merge.run.state import Run
from cycleqd_merge.strategies.protocol import Proposal


def to_confirm(run: Run) -> list[int]:
    """Elites to confirm: the highest means and the best of each archive, except those scored or failed in it already.

    Empty if a task has no confirmation split, or the recipe sets `confirm.top` to 0.
    """
    if (
        not run.recipe.confirm.top
        or not all(task["rows"]["confirm"] for task in run.start["tasks"].values())
        or not run.archives
    ):
        return []
    by_mean = sorted(run.elites(), key=lambda number: (-run.mean(run.scores(number)), number))
    best = [elite.number for archive in run.archives if (elite := archive.best()) is not None]
    chosen = dict.fromkeys([*by_mean[: run.recipe.confirm.top], *best])
    return [number for number in chosen if number not in run.confirmed and number not in run.unconfirmed]


def confirm(journal: Journal, run: Run, pool: Pool, deadline: float | None = None) -> list[int]:
    """Score the top elites on the confirmation split and journal their scores; returns their numbers.

    An elite whose evaluation fails is not tried again, and is not chosen while others are confirmed. deadline: a
    `time.monotonic()` instant after which no further evaluation is awaited.

    Raises:
        Interrupted: the deadline has passed; everything scored so far is recorded.
    """
    numbers = to_confirm(run)
    for number in numbers:
        pool.submit(Proposal(number, run.candidate(number), {}), rows="confirm")
    for _ in numbers:
        if deadline is not None and time.monotonic() > deadline:
            raise Interrupted("time limit reached")
        finished = pool.next()
        event: Event = {"event": "confirm", "number": finished.number}
        if finished.evaluation is None:
            event |= {"scores": None, "error": finished.error}
        else:
            evaluation = finished.evaluation
            event |= {"scores": list(evaluation.scores), "outcomes": evaluation.outcome_texts}
            event["seconds"] = [round(each, 3) for each in (evaluation.load_seconds, evaluation.score_seconds)]
        journal.append(event)
        run.tell_confirmed(event)
    return numbers
