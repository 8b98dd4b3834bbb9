"""One search from its recipe to its confirmed elites: resolve, check, open, evaluate, confirm."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path

from cycleqd_merge.config.archives import require_archives, with_recorded_archive
from cycleqd_merge.config.loading import fix_presets, require_variables, stated_recipe
from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.evaluation.engines.engine import SEMANTICS
from cycleqd_merge.evaluation.engines.prompts import tokenizer_notices
from cycleqd_merge.evaluation.opened_recipe import OpenedRecipe
from cycleqd_merge.evaluation.pools.cluster import worker_count
from cycleqd_merge.evaluation.pools.opening import open_pool
from cycleqd_merge.evaluation.pools.pool import Pool
from cycleqd_merge.journal.fits import founders_fits, stated_fits
from cycleqd_merge.journal.log import Event, Journal, opened_journal
from cycleqd_merge.merging.bases import compute_share_of_bases
from cycleqd_merge.merging.checks import require_mergeable
from cycleqd_merge.merging.download import fetch
from cycleqd_merge.merging.fit_files import RUN_FITS, keep_fits, require_fits, scaled_experts, write_fits
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.processes import from_main_process, leave_group, this_process
from cycleqd_merge.merging.revisions import pin
from cycleqd_merge.merging.tokenizers import context_length, family_tokenizer
from cycleqd_merge.outputs.rehearsal import rehearse_export, require_exports
from cycleqd_merge.preflight.access import require_publishable
from cycleqd_merge.preflight.disk import disk_uses, download_uses, require_disk
from cycleqd_merge.preflight.prompts import require_answerable
from cycleqd_merge.run.confirm import confirm, to_confirm
from cycleqd_merge.run.environment import environment
from cycleqd_merge.run.identity import recorded_presets, recorded_revisions
from cycleqd_merge.run.interruption import terminable
from cycleqd_merge.run.loop import evaluate_generations, resume_journal
from cycleqd_merge.run.observer import Observer
from cycleqd_merge.run.opening import closed_run, identify
from cycleqd_merge.run.state import Run, open_run
from cycleqd_merge.session.run_log import logging_to
from cycleqd_merge.tasks.suite import leak_notices, leaked_counts, require_environments

log = logging.getLogger(__name__)


def search(
    recipe: Recipe,
    observer: Observer,
    *,
    founders: Sequence[Event] = (),
    max_hours: float | None = None,
    pool: Pool | None = None,
) -> Run:
    """Evaluate the generations of a recipe that its run directory lacks, and confirm the best elites.

    founders: see `start_event`; a run that is resumed keeps its own. pool: evaluates instead of the recipe's own, and
    stays open. Under `accelerate launch`, processes other than the first compute their share of the singular bases and
    exit.

    Raises:
        UserError: the recipe, its models, tasks or output cannot be used; nothing was evaluated.
        Interrupted: the run was ended early and can be resumed.
        RunFailed: the run cannot continue.
    """
    if this_process().is_main_process:
        return _search(recipe, observer, founders, max_hours, pool)
    compute_share_of_bases()
    raise SystemExit(0)


def _search(
    recipe: Recipe, observer: Observer, founders: Sequence[Event], max_hours: float | None, pool: Pool | None
) -> Run:
    """`search` in the first process."""
    deadline = None if max_hours is None else time.monotonic() + 3600 * max_hours
    out = Path(recipe.output)
    with terminable(), opened_journal(out) as journal, logging_to(out / "run.log"):
        run, open_own = _set_up(journal, recipe, founders, observer)
        if open_own is None:
            observer.started(run)
            return run
        with nullcontext(pool) if pool is not None else closing(open_own()) as working:
            evaluate_generations(journal, run, working, observer, deadline)
            confirm(journal, run, working, deadline)
        return run


def confirm_elites(folder: Path, top: int | None = None) -> Run:
    """Score the top elites of a run on its confirmation split, as `search` does at its end.

    top: the number of elites, instead of the recipe's.

    Raises:
        UserError: `folder` is not a run directory, or its models or tasks are no longer available.
    """
    recipe = open_run(folder).recipe  # before the journal is opened for writing, which creates a missing one
    if top is not None:
        recipe = recipe.model_copy(update={"confirm": recipe.confirm.model_copy(update={"top": top})})
    with terminable(), opened_journal(folder) as journal:
        run, open_own = _set_up(journal, recipe)
        if open_own is not None:
            with closing(open_own()) as pool:
                confirm(journal, run, pool)
        return run


def output_folder(output: str, fresh: bool = False) -> Path:
    """The run directory; with `fresh`, the first unused name next to it if it exists."""
    out = Path(output)
    if not fresh or not out.exists():
        return out
    return next(folder for n in range(2, 10**6) if not (folder := out.with_name(f"{out.name}-{n}")).exists())


def _set_up(
    journal: Journal, recipe: Recipe, founders: Sequence[Event] = (), observer: Observer | None = None
) -> tuple[Run, Callable[[], Pool] | None]:
    """Open the recipe's models and tasks, check them, resume the journal.

    The second value opens a pool; None if nothing is left to evaluate.
    """
    observer = observer or Observer()
    require_variables(recipe)
    recipe = pin(recipe, recorded_revisions(journal.events))
    recipe = fix_presets(recipe, recorded_presets(journal.events))
    if journal.events:
        recipe = with_recorded_archive(recipe, journal.events[0].get("evolution", {}))
        founders = journal.events[0].get("seeds", [])
    fits = sorted({*founders_fits(founders), *stated_fits(journal.events)})
    keep_fits(journal.folder / RUN_FITS, fits)
    mutated = sorted(recipe.mutated_experts(founders) | scaled_experts(fits))
    log.debug("commits of Hub models and datasets: %s", recipe.revisions or "none")
    models = recipe.pinned_models()
    require_archives(recipe)
    require_disk(download_uses(models))
    fetch(models, observer.downloading)
    workers = worker_count(recipe)
    opened = OpenedRecipe.open(recipe)
    log.debug("models and tasks opened: %d tasks, %d coefficient groups", len(opened.suite), len(opened.groups.labels))
    start = identify(opened, journal, workers, founders)
    require_fits(fits, opened.family)
    if (closed := closed_run(journal, opened)) is not None:
        from_main_process((models, list[int](), recipe.rank))  # the other processes have nothing to compute
        leave_group()
        return closed, None
    Run.begin(recipe, start)  # reports a strategy that cannot be created before any work
    if not journal.events:  # a resumed run was checked when it started, on the same contents
        tokenizer = family_tokenizer(opened.family)
        notices = [*require_mergeable(opened.family), *tokenizer_notices(tokenizer), *leak_notices(opened.suite)]
        for notice in notices:
            log.warning("%s", notice)
        require_answerable(opened.suite, tokenizer, context_length(opened.family, tokenizer, recipe.engine.context))
        require_publishable(recipe)
        rehearse_export(recipe, opened.family, opened.groups)
    require_exports(recipe, len(start["seeds"]))
    task_environments = require_environments(opened.suite)
    require_disk(disk_uses(recipe, opened.family, mutated, recipe.rank))
    from_main_process((models, mutated, recipe.rank))
    materialiser = opened.materialiser(mutated, observer.computing_bases)
    log.debug("singular bases ready for experts %s", mutated)
    leave_group()
    write_fits(journal.folder / RUN_FITS, fits)  # a run that is forked begins with those of its founders
    run = resume_journal(journal, start, _session_event(opened, materialiser, task_environments))
    if run.schedule.done and not to_confirm(run):
        return run, None
    return run, partial(open_pool, opened, materialiser, mutated)


def _session_event(opened: OpenedRecipe, materialiser: Materialiser, task_environments: dict[str, str]) -> Event:
    semantics = SEMANTICS[opened.recipe.engine.kind]
    return {
        "event": "session",
        **stated_recipe(opened.recipe),
        "bases": {opened.family.experts[n].name: bases.digest for n, bases in materialiser.bases.items()},
        "environment": environment(),
        "time": round(time.time()),
        **({"leaked": leaks} if (leaks := leaked_counts(opened.suite)) else {}),
        **({"task_environments": task_environments} if task_environments else {}),
        **({"engine_semantics": semantics} if semantics else {}),
    }
