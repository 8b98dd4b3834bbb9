"""The loop of a run: ask, evaluate, journal, tell, until the last generation is evaluated."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

from cycleqd_merge.errors import Interrupted, RunFailed
from cycleqd_merge.evaluation.pools.pool import Finished, Pool
from cycleqd_merge.journal.log import JOURNAL_FILE, Event, Journal, failed, of_kind
from cycleqd_merge.run.differences import differences
from cycleqd_merge.run.identity import require_same
from cycleqd_merge.run.interruption import terminable
from cycleqd_merge.run.observer import Observer
from cycleqd_merge.run.state import Run, replay_events
from cycleqd_merge.strategies.protocol import Proposal
from cycleqd_merge.strategies.schedule import InOrder

log = logging.getLogger(__name__)
MAX_FAILURES_IN_A_ROW = 5
"""The number of failed evaluations in a row that stops a run."""


def resume_journal(journal: Journal, start: Event, session: Event) -> Run:
    """Start a run in an empty journal, or resume the one that it contains.

    start: the run's identity. session: recipe, singular bases and environment of this process.

    Raises:
        RecipeError: the journal contains a run of a different identity (the differences are listed), or is damaged.
    """
    where = str(journal.folder / JOURNAL_FILE)
    if not journal.events:
        journal.append(start)
    require_same(journal, start)
    for earlier in of_kind(journal.events, "session")[-1:]:
        for line in differences(earlier["bases"], session["bases"]):
            log.warning("singular bases differ from the last session's (%s): children may differ slightly", line)
    run = replay_events([*journal.events, session], where)
    run.folder = journal.folder
    journal.append(session)
    if run.schedule.received >= run.search.first:
        _record_bounds(journal, run)
    return run


def evaluate_generations(
    journal: Journal, run: Run, pool: Pool, observer: Observer, deadline: float | None = None
) -> None:
    """Evaluate until the last generation; leaves journal and pool open.

    deadline: a `time.monotonic()` instant after which no further evaluation is awaited.

    Raises:
        Interrupted: by Ctrl-C, SIGTERM or the deadline; every result so far is recorded.
        RunFailed: the infrastructure failed, or too many evaluations in a row.
    """
    observer.started(run)
    in_order: InOrder[Finished] = InOrder(run.schedule.received)
    if not run.fits_due:
        _submit(pool, run, run.open)
    with terminable():
        while not run.schedule.done:
            if deadline is not None and time.monotonic() > deadline:
                raise Interrupted("time limit reached")
            if run.fits_due:  # then nothing is in flight, and what is open are fits
                _learn(journal, run, pool, observer, deadline)
                _submit(pool, run, run.open)
            finished = pool.next()
            for due in in_order.take(finished.number, finished):
                _keep_examples(journal, run, due)
                event = _event(due, run.steps[due.number])
                _submit(pool, run, _record(journal, run, event))
                observer.evaluated(run, event)
                _stop_if_failing(run)


def _submit(pool: Pool, run: Run, proposals: Sequence[Proposal]) -> None:
    for each in proposals:
        pool.submit(each, known=run.known(each.number), record=run.to_record(each.number))


def _learn(journal: Journal, run: Run, pool: Pool, observer: Observer, deadline: float | None) -> None:
    from cycleqd_merge.run.learn import learn_due_fits  # torch: a run without fits does not need it

    learn_due_fits(journal, run, pool, observer, deadline)


def _keep_examples(journal: Journal, run: Run, finished: Finished) -> None:
    """Write an expert's answers for the fits, before its result counts."""
    if run.to_record(finished.number):
        from cycleqd_merge.run.learn import keep_examples

        keep_examples(journal.folder, run, finished)


def _event(finished: Finished, step: dict[str, Any]) -> Event:
    event: Event = {"event": "result", "number": finished.number, "step": step}
    if finished.evaluation is None:
        return {**event, "scores": None, "error": finished.error}
    evaluation = finished.evaluation
    if evaluation.results:
        event["outcomes"] = evaluation.outcome_texts
    if evaluation.limited:  # by task: samples that score 0 because grading them exceeded a limit
        event["limited"] = evaluation.limited
    seconds = [round(each, 3) for each in (evaluation.load_seconds, evaluation.score_seconds)]
    if evaluation.censored:  # the scores cover only the first rows: they must not pass for scores of all rows
        partial = {"partial": list(evaluation.scores), "scored": evaluation.scored, "rows": evaluation.rows}
        return {**event, "scores": None, "censored": True, **partial, "seconds": seconds}
    return {**event, "scores": list(evaluation.scores), "seconds": seconds}


def _record(journal: Journal, run: Run, event: Event) -> list[Proposal]:
    """Journal a result, then tell the strategy; the archives' bounds follow the result of the last founder."""
    journal.append(event)
    opened = run.tell(event)
    if run.schedule.received == run.search.first:
        _record_bounds(journal, run)
    return opened


def _record_bounds(journal: Journal, run: Run) -> None:
    """Journal the archives' bounds, unless they are recorded already."""
    bounds = run.search.bounds
    if bounds is not None and not of_kind(journal.events, "bounds"):
        journal.append({"event": "bounds", "bounds": [list(pair) for pair in bounds]})


def _stop_if_failing(run: Run) -> None:
    last = run.results[-MAX_FAILURES_IN_A_ROW:]
    if len(last) == MAX_FAILURES_IN_A_ROW and all(failed(event) for event in last):
        raise RunFailed(f"{MAX_FAILURES_IN_A_ROW} evaluations in a row failed, the last with: {last[-1]['error']}")
