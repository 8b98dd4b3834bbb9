"""The main entry point: validates a recipe before anything heavy is imported, then evolves it."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING

from cycleqd_merge.config.loading import load_task, loaded_recipe
from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.run.observer import Observer

if TYPE_CHECKING:
    from cycleqd_merge.journal.log import Event
    from cycleqd_merge.run.state import Run


def evolve(
    recipe: Recipe | str | PathLike[str],
    observer: Observer | None = None,
    *,
    overrides: Sequence[str] = (),
    founders: Sequence[Event] = (),
    fresh: bool = False,
    max_hours: float | None = None,
) -> Run:
    """Evolve a recipe to its last generation, then export, measure and push what it asks for; returns the run.

    Resumes an existing run. recipe: a loaded one, or the path of its file. overrides: `key.path=value`
    texts whose values are YAML. founders: genomes that a new run starts from besides its experts, as `fork` returns
    them. fresh: start a new run next to an existing one. max_hours: stop after this many hours; call again to resume.

    Raises:
        UserError: the recipe, its models, tasks or output cannot be used; nothing was evaluated.
        Interrupted: the run was ended early and can be resumed.
        RunFailed: the run cannot continue.
        HubFailed: the run is complete, but not everything was pushed.
    """
    loaded = loaded_recipe(recipe, overrides)
    for use in loaded.tasks:
        load_task(use)  # reports an error in a task file before the import below, which takes seconds
    from cycleqd_merge.session.job import run_job

    return run_job(loaded, observer or Observer(), founders, fresh, max_hours)
