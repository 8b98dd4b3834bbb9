"""One process working on one run: everything a recipe names, opened, and put together."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path

from cycleqd_merge.config.hub import HubConfig
from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.errors import UserError
from cycleqd_merge.evaluation.opened_recipe import OpenedRecipe
from cycleqd_merge.evaluation.pools.cluster import worker_count
from cycleqd_merge.evaluation.pools.pool import LocalPool, Pool
from cycleqd_merge.evaluation.pools.ray_pool import RayPool
from cycleqd_merge.hub.periodic_push import PeriodicPush
from cycleqd_merge.journal.differences import differences
from cycleqd_merge.journal.log import Event, Journal, of_kind
from cycleqd_merge.merging.bases import BasesProgress
from cycleqd_merge.merging.download import DownloadProgress as Fetching
from cycleqd_merge.merging.download import fetch
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.processes import of_the_first, part, this_process
from cycleqd_merge.merging.revisions import pin
from cycleqd_merge.preflight.access import repositories, require_write
from cycleqd_merge.preflight.disk import disk_uses, download_uses, require_disk
from cycleqd_merge.preflight.grid import require_grid
from cycleqd_merge.preflight.model_checks import require_mergeable
from cycleqd_merge.preflight.prompts import require_answerable
from cycleqd_merge.run.confirm import confirm, to_confirm
from cycleqd_merge.run.environment import environment
from cycleqd_merge.run.identity import start_event
from cycleqd_merge.run.loop import Observer, SilentObserver, evolve, require_same, resume_journal, terminable
from cycleqd_merge.run.state import Run, open_run
from cycleqd_merge.tasks.suite import require_surroundings

log = logging.getLogger(__name__)
_LOGGING: set[int] = set()
"""Threads whose runs keep a log: searches of a comparison go on side by side."""


def reopen(run: Run) -> OpenedRecipe:
    """What a run on disk was made from.

    Raises:
        UserError: something cannot be opened, or the models are no longer those of the run.
    """
    materials = OpenedRecipe.open(run.recipe, run.folder)
    now = start_event(materials, 0)
    changed = differences(*({key: event[key] for key in ("base", "experts", "groups")} for event in (run.start, now)))
    if changed:
        raise UserError("the models are no longer those of the run: " + "; ".join(changed))
    return materials


def begin(materials: OpenedRecipe, journal: Journal, seeds: Sequence[Event] = ()) -> Event:
    """The identity of the run that goes on in `journal`, or that the materials and `seeds` would begin there.

    How many evaluations are in flight is frozen when a run begins; workers may change later.

    Raises:
        UserError: the journal holds another run.
    """
    evolution = materials.recipe.evolution
    in_flight = evolution.flights(worker_count(materials.recipe))
    if journal.events:
        seeds = journal.events[0].get("seeds", [])
        in_flight = evolution.in_flight or journal.events[0]["in_flight"]
    start = start_event(materials, in_flight, seeds)
    if journal.events:  # a run is the same by its models' contents, however they are named now
        start["revisions"] = journal.events[0].get("revisions")
    require_same(journal, start)
    return start


def run_recipe(
    recipe: Recipe,
    folder: Path,
    observer: Observer | None = None,
    *,
    seeds: Sequence[Event] = (),
    fresh: bool = False,
    max_hours: float | None = None,
    pool: Pool | None = None,
    progress: BasesProgress | None = None,
    fetching: Fetching | None = None,
) -> Run | None:
    """Evolve a recipe to its last generation, from where its run directory stands, and confirm its elites.

    seeds: see `start_event`; a run that goes on keeps its own. pool: evaluates instead of one that the recipe asks for,
    and stays open. progress, fetching: told of singular bases that are computed, and of downloads. Started under
    `accelerate launch`, the processes beside the first only share in the singular bases and return None.

    Raises:
        UserError: the recipe, its models, tasks or output are not fit; nothing was evaluated.
        Interrupted: the run was ended early and can go on.
        RunFailed: the run cannot go on.
    """
    observer = observer or SilentObserver()
    deadline = None if max_hours is None else time.monotonic() + 3600 * max_hours
    if not this_process().is_main_process:
        _lend_a_hand(recipe, folder)
        return None
    out = output_folder(recipe, fresh)
    if recipe.hub is not None:
        require_write(*repositories(recipe.hub))
    with (
        terminable(),
        opened_journal(out) as journal,
        _logging_to(out / "run.log"),
        _pushing(observer, recipe.hub, out) as observer,
    ):
        run, open_own = _set_up(journal, recipe, folder, seeds, progress, fetching)
        if open_own is None:
            observer.started(run)
            return run
        with nullcontext(pool) if pool is not None else closing(open_own()) as at_work:
            evolve(journal, run, at_work, observer, deadline)
            confirm(journal, run, at_work, deadline)
        return run


def _lend_a_hand(recipe: Recipe, folder: Path) -> None:
    """What a process beside the first does: its share of the singular bases of the run that the first one opened."""
    recipe, mutated = of_the_first((recipe, list[int]()))
    OpenedRecipe.open(recipe, folder).materialiser(mutated)
    part()


def _set_up(
    journal: Journal,
    recipe: Recipe,
    folder: Path,
    seeds: Sequence[Event] = (),
    progress: BasesProgress | None = None,
    fetching: Fetching | None = None,
) -> tuple[Run, Callable[[], Pool] | None]:
    """Open what the recipe names, check it, take up the journal; what opens a pool, if anything is left to evaluate."""
    require_grid(recipe)
    recipe = pin(recipe, folder, recorded_revisions(journal.events))
    require_disk(download_uses(recipe))
    fetch(recipe, fetching)
    materials = OpenedRecipe.open(recipe, folder)
    start = begin(materials, journal, seeds)
    Run.begin(recipe, folder, start)  # a strategy that cannot be made is told before any work
    mutated = sorted(materials.mutated_experts(start["seeds"]))
    if not journal.events:  # a run that goes on was checked when it began, on the same contents
        for notice in require_mergeable(materials.family):
            log.warning("%s", notice)
        require_answerable(materials.suite, materials.family)
    require_surroundings(materials.suite)
    require_disk(disk_uses(recipe, materials.family, mutated, materials.rank))
    of_the_first((recipe, mutated))
    materialiser = materials.materialiser(mutated, progress)
    part()
    run = resume_journal(journal, start, _session_event(materials, materialiser))
    if run.schedule.done and not to_confirm(run):
        return run, None
    return run, partial(open_pool, materials, materialiser, mutated)


def open_pool(materials: OpenedRecipe, materialiser: Materialiser, mutated: Sequence[int]) -> Pool:
    """One worker in this process, or as many as the recipe asks for on Ray."""
    recipe = materials.recipe
    workers = worker_count(recipe)
    if workers == 1 and recipe.ray_address is None:
        return LocalPool(materials.worker(materialiser))
    return RayPool(recipe, materials.folder, mutated, workers, recipe.ray_address)


def confirm_run(folder: Path, top: int | None = None) -> Run:
    """Score the top elites of a run again, as `run_recipe` does at its end; `top` overrides the recipe's number.

    Raises:
        UserError: there is no such run, or what it was made from is no longer there.
    """
    this = open_run(folder)  # before its journal is opened for writing, which would make one where there is none
    recipe = this.recipe
    if top is not None:
        recipe = recipe.model_copy(update={"confirm": recipe.confirm.model_copy(update={"top": top})})
    with terminable(), opened_journal(folder) as journal:
        run, open_own = _set_up(journal, recipe, this.folder)
        if open_own is not None:
            with closing(open_own()) as pool:
                confirm(journal, run, pool)
        return run


def recorded_revisions(events: Sequence[Event]) -> dict[str, str]:
    """The commits that were resolved when the run with these events began, or in a session after."""
    sessions = (event["recipe"].get("revisions", {}) for event in of_kind(events, "session"))
    starts = (event.get("revisions") or {} for event in events[:1])
    return {name: sha for revisions in (*sessions, *starts) for name, sha in revisions.items()}


def _session_event(materials: OpenedRecipe, materialiser: Materialiser) -> Event:
    return {
        "event": "session",
        "recipe": materials.recipe.model_dump(mode="json", exclude_unset=True),
        "folder": str(materials.folder.resolve()),
        "bases": {materials.family.experts[n].name: bases.digest for n, bases in materialiser.bases.items()},
        "environment": environment(),
        "time": round(time.time()),
    }


@contextmanager
def _pushing(observer: Observer, hub: HubConfig | None, out: Path) -> Iterator[Observer]:
    """An observer that pushes the archive meanwhile, if the recipe wants it."""
    if hub is None or hub.every is None or not hub.archive:
        yield observer
        return
    pushing = PeriodicPush(observer, out, hub.every)
    yield pushing
    pushing.close()  # a run that is interrupted does not wait: a push under way ends by itself


def output_folder(recipe: Recipe, fresh: bool = False) -> Path:
    """The run directory; with `fresh`, the first free name beside it if it holds a run already."""
    out = Path(recipe.output)
    if not fresh or not out.exists():
        return out
    return next(folder for n in range(2, 10**6) if not (folder := out.with_name(f"{out.name}-{n}")).exists())


@contextmanager
def opened_journal(out: Path) -> Iterator[Journal]:
    """The journal of the run in `out`, locked for this process."""
    journal = Journal(out)
    try:
        yield journal
    finally:
        journal.close()


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Keep the package's log in the run directory while the run goes on, but for what other runs' threads say."""
    handler = logging.FileHandler(path, encoding="utf-8")
    own = threading.get_ident()
    handler.addFilter(lambda record: record.thread == own or record.thread not in _LOGGING)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    _LOGGING.add(own)
    try:
        yield
    finally:
        _LOGGING.discard(own)
        root.removeHandler(handler)
        handler.close()
