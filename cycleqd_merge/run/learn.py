"""Learning a run's fits: what the experts answered is kept, then each fit is learned, written and journaled."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from cycleqd_merge.config.fit import FitConfig
from cycleqd_merge.errors import InfrastructureError, Interrupted, RecipeError, RunFailed
from cycleqd_merge.evaluation.pools.pool import Finished, Pool
from cycleqd_merge.files import write_atomically
from cycleqd_merge.fitting.examples import Example, examples_from_bytes, examples_to_bytes, selected
from cycleqd_merge.fitting.job import FitJob, FitResult
from cycleqd_merge.fitting.training import FitSettings, FitTask
from cycleqd_merge.journal.log import Event, Journal
from cycleqd_merge.merging.fit_files import RUN_FITS, write_fits
from cycleqd_merge.merging.fits import keep_fit
from cycleqd_merge.run.observer import Observer
from cycleqd_merge.run.state import Run, fit_weights
from cycleqd_merge.strategies.protocol import Proposal

log = logging.getLogger(__name__)
Examples = Mapping[str, tuple[Example, ...]]
"""By task, what its fits learn from."""


def examples_path(folder: Path, task: str) -> Path:
    """The file with an expert's answers to the search rows of a task, in the run directory `folder`."""
    return folder / RUN_FITS / f"examples-{task}.safetensors"


def keep_examples(folder: Path, run: Run, finished: Finished) -> None:
    """Write the answers of an expert that was just evaluated, before its result is journaled.

    A task without an `expert` keeps those of the expert with the highest score so far.

    Raises:
        InfrastructureError: the disk is full, or the folder cannot be written.
    """
    evaluation = finished.evaluation
    if evaluation is None:
        return
    for task in run.to_record(finished.number):
        best, place = run.teacher(task), run.tasks.index(task)
        if best is None or evaluation.scores[place] > run.scores(best)[place]:
            _write_examples(folder, task, evaluation.examples.get(task, ()))


def _write_examples(folder: Path, task: str, examples: Sequence[Example]) -> None:
    path = examples_path(folder, task)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, examples_to_bytes(examples))


def learn_due_fits(journal: Journal, run: Run, pool: Pool, observer: Observer, deadline: float | None = None) -> None:
    """Learn the fits that are due: the first one, then the others, which start from it. Nothing may be in flight.

    deadline: a `time.monotonic()` instant; it is checked after each fit.

    Raises:
        Interrupted: the deadline has passed; every fit so far is recorded, and an unfinished one resumes on this host.
        RunFailed: there is nothing to learn, or a fit diverges.
        InfrastructureError: a fit failed for a reason of the machine; the run can be resumed.
    """
    due = run.fits_due
    examples = _all_examples(journal.folder, run, pool)
    observer.fitting(run, due)

    def received(result: FitResult) -> None:
        event = _event(run, job_of[result.number], result)
        digest = keep_fit(result.content)
        write_fits(journal.folder / RUN_FITS, [digest])
        journal.append(event | {"digest": digest})
        run.tell_fit(journal.events[-1])
        observer.fitted(run, journal.events[-1])
        if deadline is not None and time.monotonic() > deadline and run.fits_due:
            raise Interrupted("time limit reached")

    for numbers in ([number for number in due if number == 0], [number for number in due if number]):
        job_of = {number: _job(run, number, examples) for number in numbers}
        if job_of:
            pool.fit(list(job_of.values()), received)


def _job(run: Run, number: int, examples: Examples) -> FitJob:
    """The job of a fit, which starts from the first one unless it is that.

    Raises:
        RunFailed: no task with a weight above 0 has answers to learn from.
    """
    fit = run.recipe.fit
    assert fit is not None
    tasks = []
    for task, weight in fit_weights(run.start)[number].items():
        if examples.get(task):
            teacher = run.teacher(task)
            assert teacher is not None
            tasks.append(FitTask(task, teacher, examples[task], weight))
    if not tasks:
        raise RunFailed(
            f"fit {number + 1}: no expert has an answer to learn from; check the experts' scores, or start a new run "
            "without `fit` (--fresh)"
        )
    settings = fit_settings(fit, number, run.recipe.evolution.seed)
    start = run.fits[0]["digest"] if number else None
    return FitJob(number, tuple(tasks), settings, fit.coefficients, fit.scales, start)


def recorded_job(folder: Path, run: Run, start: float | None = None) -> FitJob:
    """The job of a run's first fit once more, from its recorded answers. start: of every coefficient, if not the
    fit's own.

    Raises:
        RecipeError: the answers are missing or damaged.
    """
    fit = run.recipe.fit
    assert fit is not None
    examples = {}
    for task in run.fitted_tasks:
        if run.teacher(task) is None:  # its expert could not be evaluated
            continue
        path = examples_path(folder, task)
        try:
            examples[task] = selected(examples_from_bytes(path.read_bytes()), fit.learned)
        except (OSError, ValueError) as error:
            raise RecipeError(f"{path}: {_reason(error)}; restore it, or repeat the run") from error
    job = _job(run, 0, examples)
    return job if start is None else replace(job, settings=replace(job.settings, start=start))


def fit_settings(fit: FitConfig, number: int, seed: int) -> FitSettings:
    """How fit `number` of a recipe is learned."""
    return FitSettings(
        steps=fit.spread_steps if number else fit.steps,
        rows=fit.rows,
        learning_rate=fit.learning_rate,
        start=fit.start,
        loss=fit.loss,
        likely=fit.likely,
        width=fit.width,
        seed=seed,
    )


def _event(run: Run, job: FitJob, result: FitResult) -> Event:
    """The journal's `fit` event, without its digest.

    Raises:
        RunFailed: the fit diverged.
    """
    if not math.isfinite(result.losses[-1]):
        rate = job.settings.learning_rate / 2**result.restarts
        raise RunFailed(
            f"fit {job.number + 1}: diverges at step {len(result.losses)} even with the learning rate {rate:g}; "
            "start a new run (--fresh) with a lower fit.learning_rate"
        )
    return {
        "event": "fit",
        "number": job.number,
        "weights": {task.name: task.weight for task in job.tasks},
        "start": job.start,
        "settings": {"coefficients": job.coefficients, "scales": job.scales, **asdict(job.settings)},
        "examples": {task.name: len(task.examples) for task in job.tasks},
        "steps": len(result.losses),
        "loss": [result.losses[0], result.losses[-1]],
        **({"restarts": result.restarts} if result.restarts else {}),
        "tokens": result.tokens,
        "seconds": {part: round(seconds, 3) for part, seconds in result.seconds.items()},
        "released_mib": round(result.released_mib, 1),
    }


def _all_examples(folder: Path, run: Run, pool: Pool) -> Examples:
    """What the fits learn from each task; tasks of which there is nothing are left out, with a warning."""
    assert run.recipe.fit is not None
    found = {}
    for task in run.fitted_tasks:
        teacher = run.teacher(task)
        answers = () if teacher is None else _read_examples(folder, run, pool, task, teacher)
        found[task] = selected(answers, run.recipe.fit.learned)
        if teacher is None:
            log.warning("fit: task %s is left out: its expert could not be evaluated", task)
        elif not found[task]:
            left_out = "fit: task %s is left out: nothing can be learned from the answers of %s (fit.examples: %s)"
            log.warning(left_out, task, run.experts[teacher], run.recipe.fit.learned)
    return found


def _read_examples(folder: Path, run: Run, pool: Pool, task: str, teacher: int) -> tuple[Example, ...]:
    """The answers of a task's expert; if their file is missing or damaged, the expert answers again.

    Raises:
        InfrastructureError: the expert cannot be evaluated any more.
    """
    path = examples_path(folder, task)
    try:
        return examples_from_bytes(path.read_bytes())
    except (OSError, ValueError) as error:
        log.warning("%s: %s; %s answers the rows again", path, _reason(error), run.experts[teacher])
    others = dict(zip(run.tasks, run.scores(teacher), strict=True))
    del others[task]
    pool.submit(Proposal(teacher, run.candidate(teacher), {}), known=others, record=[task])
    finished = pool.next()
    if finished.evaluation is None:
        raise InfrastructureError(
            f"fit: {run.experts[teacher]} cannot answer the rows of task {task} again: {finished.error}; resume the run"
        )
    examples = finished.evaluation.examples.get(task, ())
    _write_examples(folder, task, examples)
    return examples


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
