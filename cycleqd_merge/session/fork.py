"""Starting a run from the elites of another, with different operators or tasks."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from cycleqd_merge.config.loading import override_recipe
from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.errors import RecipeError
from cycleqd_merge.journal.fits import founders_fits
from cycleqd_merge.journal.log import JOURNAL_FILE, Event
from cycleqd_merge.journal.outcomes import outcomes_to_text
from cycleqd_merge.merging.fit_files import RUN_FITS, keep_fits
from cycleqd_merge.run.concealed import as_recorded
from cycleqd_merge.run.differences import order_difference
from cycleqd_merge.run.identity import task_identity
from cycleqd_merge.run.semantics import changed_engines, changed_tasks
from cycleqd_merge.run.state import Run, open_run
from cycleqd_merge.tasks.suite import Suite, open_suite

log = logging.getLogger(__name__)
_SAME_SCORE = ("definition", "search")
"""Keys of a task's identity that must be equal for its scores to be valid in the new run: definition and rows."""


def fork(
    source: str | PathLike[str], out: str | PathLike[str], overrides: Sequence[str] = (), rescore: bool = False
) -> tuple[Recipe, list[Event]]:
    """The recipe and the founders of a run that starts from the archives of `source`.

    The genomes of all archives' elites join the experts as generation 0. They keep their scores on tasks that are
    unchanged and have the same semantics version, and are scored on all others. rescore: score them on every task.
    Fits are learned again only if `overrides` change their settings or the tasks.

    Raises:
        RecipeError: `out` exists and is not a fork interrupted before its first result, or the new recipe has other
            models or groups, which the genomes do not fit.
    """
    run = open_run(source)
    if Path(out).exists() and not _is_unstarted(Path(out)):
        raise RecipeError(f"{out}: already exists; choose a different folder")
    recipe = override_recipe(run.recipe, [*overrides, f"output={json.dumps(str(out))}"], f"fork of {source}")
    for key, old, new in (
        ("base", run.recipe.base, recipe.base),
        ("experts", run.recipe.experts, recipe.experts),
        ("evolution.groups", run.recipe.evolution.groups, recipe.evolution.groups),
    ):
        if old != new:
            raise RecipeError(f"{key}: a fork keeps the run's {key}, which its genomes need; start a new run instead")
    for line in order_difference("experts", list(run.recipe.experts), list(recipe.experts)):
        raise RecipeError(f"{line}: a fork keeps the run's order, which its genomes go by; list the experts in it")
    if recipe.fit is not None and (recipe.fit, recipe.tasks) == (run.recipe.fit, run.recipe.tasks):
        recipe = override_recipe(recipe, ["fit=null"], f"fork of {source}")  # it would learn the same fits again
    kept = [] if rescore else _kept_tasks(run, open_suite(recipe))
    founders = [_founder(run, number, kept) for number in run.inheritable()]
    keep_fits(Path(source) / RUN_FITS, sorted(founders_fits(founders)))  # the new run takes them from the cache
    return recipe, founders


def _is_unstarted(folder: Path) -> bool:
    """Whether a run was interrupted here while it opened its models: its journal is still empty."""
    journal = folder / JOURNAL_FILE
    return journal.is_file() and journal.stat().st_size == 0


def _kept_tasks(run: Run, suite: Suite) -> list[str]:
    """The tasks of a run whose scores are valid in a run on `suite`."""
    engines, tasks = changed_engines(run.sessions), changed_tasks(run.start, suite)
    for kind, change in engines.items():
        log.warning("semantics of engine %s: %s: no scores are kept; every elite is scored again", kind, change)
    for name, change in () if engines else tasks.items():
        log.warning(
            "semantics of task %s: %s: its scores are not kept; every elite is scored on it again", name, change
        )
    kept = [task for task in suite if task.name not in tasks and not engines]
    identities, written = ({task.name: task_identity(task, each) for task in kept} for each in (False, True))
    now = as_recorded({"tasks": identities}, {"tasks": written}, run.start, Path(run.recipe.output))["tasks"]
    return [task for task in run.tasks if task in now and _same(run.start["tasks"][task], now[task])]


def _same(old: dict[str, Any], new: dict[str, Any]) -> bool:
    return all(old[key] == new[key] for key in _SAME_SCORE)


def _founder(run: Run, number: int, kept: Sequence[str]) -> Event:
    scores = dict(zip(run.tasks, run.scores(number), strict=True))
    outcomes = {task: outcomes_to_text(each) for task, each in run.outcomes(number).items() if task in kept}
    return {
        "genome": run.search.genome(number).to_json(),
        "scores": {task: scores[task] for task in kept},
        **({"outcomes": outcomes} if outcomes else {}),
        "from": number,
    }
