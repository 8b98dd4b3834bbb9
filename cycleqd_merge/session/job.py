"""A whole job: one search, then the exports, held-out scores and pushes that its recipe asks for."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cycleqd_merge.config.hub import HubConfig
from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.errors import HubFailed, InfrastructureError, UserError
from cycleqd_merge.hub.periodic_push import PeriodicPush
from cycleqd_merge.journal.log import Event
from cycleqd_merge.outputs.export import finish_exports
from cycleqd_merge.outputs.measure import heldout_scores
from cycleqd_merge.preflight.access import repositories, require_write
from cycleqd_merge.run.interruption import terminable
from cycleqd_merge.run.observer import Observer, Observers, Tolerated
from cycleqd_merge.run.state import Run
from cycleqd_merge.session.search import output_folder, search


def run_job(recipe: Recipe, observer: Observer, founders: Sequence[Event], fresh: bool, max_hours: float | None) -> Run:
    """See `evolve`."""
    recipe = recipe.model_copy(update={"output": str(output_folder(recipe.output, fresh))})
    observer = Tolerated(observer)
    with terminable():
        with _pushing(recipe.hub, recipe.output) as pushes:
            if recipe.hub is not None:
                require_write(*repositories(recipe.hub))
            run = search(recipe, Observers(observer, *pushes), founders=founders, max_hours=max_hours)
        observer.searched(run)
        _finish(run, observer)
        _publish(run, observer)
    return run


@contextmanager
def _pushing(hub: HubConfig | None, output: str) -> Iterator[list[Observer]]:
    """The observer that pushes the archive during the run, if the recipe asks for it."""
    if hub is None or hub.every is None or not hub.archive:
        yield []
        return
    pushes = PeriodicPush(Path(output), hub.every)
    yield [pushes]
    pushes.close()  # not reached if the run is interrupted: a push in progress then ends by itself


def _finish(run: Run, observer: Observer) -> None:
    """The exports and held-out scores that the recipe asks for, unless they exist already."""
    out = Path(run.recipe.output)
    for name, folder in finish_exports(run, out):
        observer.exported(name, folder)
    if run.recipe.finish.heldout:
        observer.measured(run, "heldout", heldout_scores(run, out))


def _publish(run: Run, observer: Observer) -> None:
    """Push what the recipe's `hub` asks for."""
    if run.recipe.hub is None:
        return
    from cycleqd_merge.hub.publication import PushOptions  # few runs push, and these import pyarrow and matplotlib
    from cycleqd_merge.hub.publish import publish
    from cycleqd_merge.hub.pushed import pushed_lines

    out = run.recipe.output
    try:
        publish(Path(out), run.recipe.hub, PushOptions(), lambda pushed: observer.pushed(pushed_lines(pushed)))
    except (UserError, HubFailed, InfrastructureError) as error:
        again = shlex.join(["cycleqd-merge", "push", out])
        raise HubFailed(
            f"the run is complete, but not everything was pushed: {error}; push again with: {again}"
        ) from error
