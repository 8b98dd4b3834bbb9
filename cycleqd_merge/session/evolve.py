"""The main job: one search, then the exports, held-out scores and pushes that its recipe asks for."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from cycleqd_merge.config.anchoring import anchored
from cycleqd_merge.config.loading import load_recipe, load_task
from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.errors import HubFailed, UserError
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

    Resumes where the run directory stands. recipe: a loaded one, or the path of its file. overrides: `key.path=value`
    texts for a recipe file. founders: genomes that a new run starts from besides its experts, as `fork` returns them.
    fresh: start a new run next to an existing one. max_hours: stop after this many hours; call again to resume.

    Raises:
        UserError: the recipe, its models, tasks or output cannot be used; nothing was evaluated.
        Interrupted: the run was ended early and can be resumed.
        RunFailed: the run cannot continue; or, as HubFailed, it is complete but was not all pushed.
    """
    recipe = anchored(recipe, Path()) if isinstance(recipe, Recipe) else load_recipe(recipe, overrides)
    for use in recipe.tasks:
        load_task(use)  # reports an error in a task file before the imports below, which take seconds
    from cycleqd_merge.session.search import output_folder, search  # imports torch

    recipe = recipe.model_copy(update={"output": str(output_folder(recipe, fresh))})
    observer = observer or Observer()
    if recipe.hub is not None:
        from cycleqd_merge.preflight.access import repositories, require_write  # imports huggingface_hub

        require_write(*repositories(recipe.hub))
    with _pushing(observer, recipe) as watching:
        run = search(recipe, watching, founders=founders, max_hours=max_hours)
    observer.searched(run)
    _finish(run, observer)
    _publish(run, observer)
    return run


@contextmanager
def _pushing(observer: Observer, recipe: Recipe) -> Iterator[Observer]:
    """An observer that also pushes the archive during the run, if the recipe asks for it."""
    hub = recipe.hub
    if hub is None or hub.every is None or not hub.archive:
        yield observer
        return
    from cycleqd_merge.hub.periodic_push import PeriodicPush

    pushing = PeriodicPush(observer, Path(recipe.output), hub.every)
    yield pushing
    pushing.close()  # not reached if the run is interrupted: a push in progress then ends by itself


def _finish(run: Run, observer: Observer) -> None:
    """The exports and held-out scores that the recipe asks for, unless they exist already."""
    from cycleqd_merge.outputs.export import finish_exports  # imports torch
    from cycleqd_merge.outputs.measure import heldout_scores

    out = Path(run.recipe.output)
    for name, folder in finish_exports(run, out):
        observer.exported(name, folder)
    if run.recipe.finish.heldout:
        observer.measured(run, "heldout", heldout_scores(run, out))


def _publish(run: Run, observer: Observer) -> None:
    """Push what the recipe's `hub` asks for."""
    if run.recipe.hub is None:
        return
    from cycleqd_merge.hub.publication import PushOptions  # imports huggingface_hub
    from cycleqd_merge.hub.publish import publish  # imports torch
    from cycleqd_merge.hub.pushed import pushed_lines

    out = run.recipe.output
    try:
        publish(Path(out), run.recipe.hub, PushOptions(), lambda pushed: observer.pushed(pushed_lines(pushed)))
    except (UserError, HubFailed) as error:
        again = shlex.join(["cycleqd-merge", "push", out])
        raise HubFailed(
            f"the run is complete, but not all of it was pushed: {error}; push again with: {again}"
        ) from error
