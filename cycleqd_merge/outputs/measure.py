"""Scoring models of a run, or any other model, outside the search."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from cycleqd_merge.errors import ModelError, UserError
from cycleqd_merge.evaluation.failures import single_cause
from cycleqd_merge.evaluation.worker import Evaluation, Worker
from cycleqd_merge.evolution.archive import Scores
from cycleqd_merge.evolution.candidate import Candidate
from cycleqd_merge.journal.log import opened_journal
from cycleqd_merge.journal.measured import Estimate, measured_event, measured_outcomes, measured_scores
from cycleqd_merge.merging.fit_files import bases_needed
from cycleqd_merge.outputs.single_model import open_model
from cycleqd_merge.run.elites import choose
from cycleqd_merge.run.opening import changed_semantics, reopen
from cycleqd_merge.run.state import Run
from cycleqd_merge.tasks.equal_rows import leaked
from cycleqd_merge.tasks.protocol import Split
from cycleqd_merge.tasks.suite import leak_notices

log = logging.getLogger(__name__)
OnMeasured = Callable[[str, Evaluation], None]
OTHER = "model:"
"""Prefix of names that are model references instead of models of the run."""


def usual_models(run: Run) -> list[str]:
    """The models to score by default: base, experts, their mean, the best-mean elite and the aggregate, if any."""
    aggregate = ["aggregate"] if run.has_aggregate else []
    return ["base", *(f"expert:{name}" for name in run.experts), "mean", "best-mean", *aggregate]


def measure(
    run: Run,
    names: Sequence[str],
    rows: Split,
    limit: int | None = None,
    done: OnMeasured | None = None,
    folder: Path | None = None,
) -> dict[str, Evaluation]:
    """Score models of a run by their names (see `choose`), or others as `model:REFERENCE`.

    limit: score only this many samples of each task. done: called after each model. folder: the run's directory, whose
    journal records the scores of its models; without it, or with `limit`, they are only returned.

    Raises:
        UserError: there is no such model, or it cannot be opened.
    """
    own = {name: choose(run, name).candidate for name in names if not name.startswith(OTHER)}
    opened = reopen(run, *own.values())
    leaks: dict[str, set[str]] = {}
    if rows == "heldout":
        leaks = {task.name: {sample.id for sample in leaked(task.task)} for task in opened.suite}
        for notice in leak_notices(opened.suite):
            log.warning("%s", notice)
    evaluations: dict[str, Evaluation] = {}

    def score(name: str, worker: Worker, candidate: Candidate | None) -> None:
        try:
            evaluations[name] = _with_leaks(worker.evaluate(candidate, rows, limit), leaks)
        except ExceptionGroup as group:
            raise single_cause(group) from group
        if done is not None:
            done(name, evaluations[name])

    if own:
        with closing(opened.worker(opened.materialiser(bases_needed(*own.values())))) as worker:
            for name, candidate in own.items():
                score(name, worker, candidate)
    for name in names:
        if name.startswith(OTHER):
            try:
                materialiser, adapted = open_model(name.removeprefix(OTHER), opened.recipe.models)
            except ModelError as error:
                raise ModelError(f"{OTHER}{error}") from error
            with closing(opened.worker(materialiser)) as worker:
                score(name, worker, adapted)
    if folder is not None and limit is None:
        _record(run, folder, rows, evaluations, changed_semantics(run.start, run.sessions, opened))
    return evaluations


def _with_leaks(evaluation: Evaluation, leaks: Mapping[str, set[str]]) -> Evaluation:
    """An evaluation with the number of leaked samples. leaks: their ids by task."""
    results = {
        task: replace(result, leaked=len(leaks[task].intersection(result.samples))) if task in leaks else result
        for task, result in evaluation.results.items()
    }
    return replace(evaluation, results=results)


def evaluation_json(evaluation: Evaluation) -> dict[str, Any]:
    """An evaluation as JSON values: each task's score, share of truncated answers, and score per sample; `leaked`, if
    not 0, is the number of held-out samples that equal search samples, and `limited` of those whose grading exceeded a
    limit.
    """
    return {
        task: {
            "score": result.score,
            "truncated": result.truncated,
            **({"leaked": result.leaked} if result.leaked else {}),
            **({"limited": result.limited} if result.limited else {}),
            "samples": {sample: outcome.score for sample, outcome in zip(result.samples, result.outcomes, strict=True)},
        }
        for task, result in evaluation.results.items()
    }


def _record(run: Run, folder: Path, rows: Split, evaluations: Mapping[str, Evaluation], changed: Sequence[str]) -> None:
    """Journal scores of the run's models on a whole split, for reports; scores of other models are left out.

    If another process is using the run, or the scores are not comparable with the run's (changed: see
    `changed_semantics`), they are not recorded, and a warning says so.
    """
    events = []
    for name, evaluation in evaluations.items():
        if not name.startswith(OTHER):
            tasks = {
                task: Estimate.of([outcome.score for outcome in result.outcomes], result.truncated)
                for task, result in evaluation.results.items()
            }
            candidate = run.portable(choose(run, name).candidate)
            events.append(measured_event(name, candidate, rows, tasks, evaluation.outcome_texts))
    run.measured |= measured_scores(events)
    run.measured_outcomes |= measured_outcomes(events, str(folder))
    if changed:
        log.warning("these scores are not recorded: they are not comparable with the run's (%s)", ", ".join(changed))
        return
    try:
        with opened_journal(folder) as journal:
            for event in events:
                journal.append(event)
    except UserError as error:
        log.warning("these scores are not recorded: %s", error)


def heldout_scores(run: Run, folder: Path) -> dict[str, Scores]:
    """Scores of the usual models on the held-out split, in the order of the tasks; only missing ones are measured."""
    chosen = {name: (run.digest(choose(run, name).candidate), "heldout") for name in usual_models(run)}
    missing = [name for name, key in chosen.items() if key not in run.measured]
    if missing:
        measure(run, missing, "heldout", folder=folder)
    return {name: tuple(run.measured[key][task].score for task in run.tasks) for name, key in chosen.items()}
