"""Scoring models of a run, or any other model, outside the search: on search or held-out rows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mergekit.common import ModelReference

from cycleqd_merge.errors import UserError
from cycleqd_merge.evaluation.opened_recipe import OpenedRecipe
from cycleqd_merge.evaluation.worker import Evaluation, Worker, single_cause
from cycleqd_merge.evolution.archive import Scores
from cycleqd_merge.evolution.candidate import Candidate, mutated_experts
from cycleqd_merge.evolution.genome import Genome, expert_genome
from cycleqd_merge.journal.log import opened_journal
from cycleqd_merge.journal.measured import Estimate, measured_event, measured_of
from cycleqd_merge.merging.family import Expert, ModelFamily, open_checkpoint, open_expert
from cycleqd_merge.merging.groups import Groups
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.run.elites import choose
from cycleqd_merge.run.opening import reopen
from cycleqd_merge.run.state import Run
from cycleqd_merge.tasks.protocol import Rows

log = logging.getLogger(__name__)
OnMeasured = Callable[[str, Evaluation], None]
OTHER = "model:"
"""Names that start so mean any model by its reference, not one of the run."""


def usual_models(run: Run) -> list[str]:
    """The models that a run is judged by: base, experts, their mean, the best-mean elite and the aggregate, if any."""
    aggregate = ["aggregate"] if run.has_aggregate else []
    return ["base", *(f"expert:{name}" for name in run.experts), "mean", "best-mean", *aggregate]


def measure(
    run: Run, names: Sequence[str], rows: Rows, limit: int | None = None, done: OnMeasured | None = None
) -> dict[str, Evaluation]:
    """Score models of a run by their names (see `elites.choose`), or others as `model:REFERENCE`.

    limit: score only the first samples of each task. done: called after each model.

    Raises:
        UserError: a name stands for no model, or a model cannot be opened.
    """
    own = {name: choose(run, name).candidate for name in names if not name.startswith(OTHER)}
    materials = reopen(run)
    evaluations: dict[str, Evaluation] = {}

    def score(name: str, worker: Worker, candidate: Candidate | None) -> None:
        try:
            evaluations[name] = worker.evaluate(candidate, rows, limit)
        except ExceptionGroup as group:
            raise single_cause(group) from group
        if done is not None:
            done(name, evaluations[name])

    if own:
        worker = materials.worker(materials.materialiser(mutated_experts(*own.values())))
        try:
            for name, candidate in own.items():
                score(name, worker, candidate)
        finally:
            worker.close()
    for name in names:
        if name.startswith(OTHER):
            family, adapted = _other_model(name.removeprefix(OTHER), materials)
            worker = materials.worker(Materialiser(family, Groups(family.weights, "one"), {}))
            try:
                score(name, worker, adapted)
            finally:
                worker.close()
    return evaluations


def evaluation_json(evaluation: Evaluation) -> dict[str, Any]:
    """An evaluation for programs: each task's score, truncated answers and score per sample."""
    return {
        task: {
            "score": result.score,
            "truncated": result.truncated,
            "samples": {sample: outcome.score for sample, outcome in zip(result.samples, result.outcomes, strict=True)},
        }
        for task, result in evaluation.results.items()
    }


def record(run: Run, folder: Path, rows: Rows, evaluations: Mapping[str, Evaluation]) -> None:
    """Journal what models of the run scored on all of `rows`, for reports; others' scores are left out.

    Scores that cannot be journaled because another process works on the run are not recorded; a warning says so.
    """
    events = []
    for name, evaluation in evaluations.items():
        if not name.startswith(OTHER):
            tasks = {
                task: Estimate.of([outcome.score for outcome in result.outcomes], result.truncated)
                for task, result in evaluation.results.items()
            }
            candidate = run.portable(choose(run, name).candidate)
            events.append(measured_event(name, candidate, rows, tasks))
    try:
        with opened_journal(folder) as journal:
            for event in events:
                journal.append(event)
    except UserError as error:
        log.warning("these scores are not recorded: %s", error)
    run.measured |= measured_of(events)


def heldout_scores(run: Run, folder: Path) -> dict[str, Scores]:
    """Scores of the usual models on held-out rows, in the order of the tasks; measured are those that were not yet."""
    chosen = {name: (run.digest(choose(run, name).candidate), "heldout") for name in usual_models(run)}
    missing = [name for name, key in chosen.items() if key not in run.measured]
    if missing:
        record(run, folder, "heldout", measure(run, missing, "heldout"))
    return {name: tuple(run.measured[key][task].score for task in run.tasks) for name, key in chosen.items()}


def _other_model(text: str, materials: OpenedRecipe) -> tuple[ModelFamily, Genome | None]:
    """A family around a model that is not the run's: alone, or with its adapter as the only expert."""
    models = materials.recipe.models
    try:
        reference = ModelReference.parse(text)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{OTHER}{text}: not a model reference: {error}") from error
    base = open_checkpoint(ModelReference(model=reference.model), models)
    if reference.lora is None:
        return ModelFamily(base, (), models), None
    adapter = Expert("adapter", reference, open_expert(reference, base, models))
    return ModelFamily(base, (adapter,), models), expert_genome(0, 1, 1)
