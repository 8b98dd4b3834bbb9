"""A run's models and tasks, opened and compared with the identity in its journal."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from cycleqd_merge.config.loading import require_variables, stated_recipe
from cycleqd_merge.errors import ModelError, RecipeError
from cycleqd_merge.evaluation.opened_recipe import OpenedRecipe
from cycleqd_merge.evolution.candidate import Candidate, fits_of
from cycleqd_merge.journal.log import JOURNAL_FILE, Event, Journal, of_kind
from cycleqd_merge.merging.bases import prepare_bases
from cycleqd_merge.merging.family import open_family
from cycleqd_merge.merging.fit_files import RUN_FITS, bases_needed, keep_fits, require_fits
from cycleqd_merge.merging.groups import Groups
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.processes import this_process
from cycleqd_merge.run.concealed import as_recorded, with_concealed_values
from cycleqd_merge.run.confirm import to_confirm
from cycleqd_merge.run.differences import differences
from cycleqd_merge.run.identity import as_of_today, require_same, start_event
from cycleqd_merge.run.semantics import changed_engines, changed_tasks
from cycleqd_merge.run.state import Run, replay_events


def reopen(run: Run, *candidates: Candidate) -> OpenedRecipe:
    """The models and tasks of a run on disk. candidates: those that will be built; their fits are put into the cache.

    Raises:
        UserError: something cannot be opened.
        ModelError: the models have changed since the run began.
    """
    _keep_fits(run, candidates)
    require_variables(run.recipe, ("base", "experts", "models", "tasks", "evolution", "engine"))
    opened = OpenedRecipe.open(run.recipe)
    now = start_event(opened)  # base, experts and groups have no variables: they are digests and labels
    changed = differences(*({key: event[key] for key in ("base", "experts", "groups")} for event in (run.start, now)))
    if changed:
        raise ModelError("the models have changed since the run began: " + "; ".join(changed))
    require_fits(fits_of(*candidates), opened.family)
    return opened


def _keep_fits(run: Run, candidates: Sequence[Candidate]) -> None:
    """Put the fits that candidates have shares of into the cache, from the run directory.

    Raises:
        ModelError: one is missing or damaged.
    """
    if run.folder is not None:
        keep_fits(run.folder / RUN_FITS, fits_of(*candidates))


def reopen_models(run: Run, candidate: Candidate) -> Materialiser:
    """A materialiser for a candidate, with the singular bases that it needs; tasks are not opened.

    Raises:
        UserError: a model cannot be opened.
        ModelError: the models have changed since the run began.
    """
    recipe = run.recipe
    require_variables(recipe, ("base", "experts", "models"))
    _keep_fits(run, [candidate])
    models, needed = recipe.pinned_models(), sorted(bases_needed(candidate))
    family = open_family(models)
    family.require_digests(run.start["base"], run.start["experts"])
    require_fits(fits_of(candidate), family)
    groups = Groups(family.weights, recipe.evolution.groups)
    device = recipe.engine.device if recipe.engine.kind == "transformers" else None
    return Materialiser(
        family, groups, prepare_bases(family, needed, rank=recipe.rank), device or this_process().device
    )


def identify(opened: OpenedRecipe, journal: Journal, workers: int = 1, founders: Sequence[Event] = ()) -> Event:
    """The identity of the run in `journal`, or of the run that `opened` and `founders` would start in an empty one.

    Raises:
        RecipeError: the journal belongs to a different run.
    """
    recorded = journal.events[0] if journal.events else None
    founders = founders if recorded is None else recorded.get("seeds", [])
    start, written = (start_event(opened, workers, founders, recorded, as_written) for as_written in (False, True))
    if recorded is None:
        return with_concealed_values(start, written, journal.folder)
    start = as_recorded(start, written, as_of_today(recorded), journal.folder)
    require_same(journal, start)
    return start


def closed_run(journal: Journal, opened: OpenedRecipe) -> Run | None:
    """The finished run in `journal`, if its scores come from semantics versions other than the current ones.

    No scores may be added to such a run. None if the run can be extended, or has not started.

    Raises:
        RecipeError: such a run still has evaluations left.
    """
    if not journal.events:
        return None
    sessions = of_kind(journal.events, "session")
    changed = changed_semantics(journal.events[0], sessions, opened)
    if not changed:
        return None
    now = {"event": "session", **stated_recipe(opened.recipe)}
    run = replay_events([*journal.events, now], str(journal.folder / JOURNAL_FILE))
    run.sessions = sessions
    if run.schedule.done and not to_confirm(run):
        return run
    fork = shlex.join(["cycleqd-merge", "fork", str(journal.folder), "NEW", "--rescore"])
    raise RecipeError(
        f"{journal.folder}: cannot be extended: new scores would not be comparable ({', '.join(changed)}); start a new "
        f"run from its elites with: {fork}"
    )


def changed_semantics(start: Event, sessions: Sequence[Event], opened: OpenedRecipe) -> list[str]:
    """The semantics versions that have changed since a run: of its tasks, and of the engine if the run used it."""
    tasks, engines = changed_tasks(start, opened.suite), changed_engines(sessions)
    kind = opened.recipe.engine.kind
    changed = [f"semantics of task {name}: {change}" for name, change in tasks.items()]
    return [*changed, f"semantics of engine {kind}: {engines[kind]}"] if kind in engines else changed
