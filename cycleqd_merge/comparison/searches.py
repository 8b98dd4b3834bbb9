"""The searches of a comparison: ordinary runs beside each other, on the same data, budget and engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from cycleqd_merge.comparison.named_strategies import STRATEGIES, with_strategy
from cycleqd_merge.comparison.shared_pool import SharedPool
from cycleqd_merge.comparison.side_by_side import side_by_side
from cycleqd_merge.config.evolution import SvdMutationConfig
from cycleqd_merge.config.recipe import FinishConfig, Recipe
from cycleqd_merge.config.strategies import mutates
from cycleqd_merge.errors import UserError
from cycleqd_merge.evaluation.opened_recipe import OpenedRecipe
from cycleqd_merge.evaluation.pools.cluster import worker_count
from cycleqd_merge.evaluation.pools.opening import open_pool
from cycleqd_merge.evaluation.pools.pool import Pool
from cycleqd_merge.journal.log import FILE, of_kind, opened_journal, read_events
from cycleqd_merge.merging.groups import Groups
from cycleqd_merge.merging.processes import this_process
from cycleqd_merge.run.confirm import to_confirm
from cycleqd_merge.run.identity import start_event
from cycleqd_merge.run.observer import Observer
from cycleqd_merge.run.opening import closed_run, identify
from cycleqd_merge.run.state import Run, open_run
from cycleqd_merge.session.search import search
from cycleqd_merge.tasks.protocol import Split


@dataclass(frozen=True)
class Planned:
    """A search with one seed: the recipe of its run, whose directory is its output."""

    name: str
    seed: int
    recipe: Recipe

    @property
    def folder(self) -> Path:
        """Directory of the run."""
        return Path(self.recipe.output)


Observing = Callable[[Planned, bool], AbstractContextManager[Observer]]
"""Makes what is told of a search, which may be the only one at work."""


def planned_searches(
    recipe: Recipe, names: Sequence[str], budget: int, seeds: int, out: Path, rows: Split
) -> list[Planned]:
    """Every search with every seed, from the recipe's seed on; static merges, which no seed changes, once.

    budget: children that each evaluates. rows: what will judge them; those set aside confirm no elites then. The number
    of workers changes no result.

    Raises:
        UserError: no search has such a name, one is named twice, or two need other groups or singular bases.
    """
    _require_names(recipe, names)
    planned = []
    for name in names:
        own_recipe = with_strategy(recipe, name)
        first = own_recipe.evolution.seed
        for seed in range(first, first + (1 if own_recipe.strategy.kind == "mergekit" else seeds)):
            length = {"seed": seed, "generations": budget, "in_flight": _flights(own_recipe)}
            evolution = own_recipe.evolution.model_copy(update=length)
            confirm = own_recipe.confirm.model_copy(update={"top": 0} if rows == "confirm" else {})
            output = str(out / name / f"seed-{seed}")
            own = {"evolution": evolution, "confirm": confirm, "output": output, "finish": FinishConfig(), "hub": None}
            planned.append(Planned(name, seed, own_recipe.model_copy(update=own)))
    if planned[0].recipe.strategy.kind == "mergekit":
        raise UserError(
            f"{names[0]}: static merges cannot be named first: all are held against one search's best model"
        )
    _common([each.recipe for each in planned])
    return planned


def _flights(recipe: Recipe) -> int | None:
    """Children in flight: as few as for one worker, as others are at work beside it. A search that learns nothing has
    as many as there is room for."""
    learns = recipe.strategy.kind not in ("mergekit", "random")
    return recipe.evolution.flights(1) if learns else recipe.evolution.in_flight


def _require_names(recipe: Recipe, names: Sequence[str]) -> None:
    if not names:
        raise UserError(f"no search is named; there are {', '.join([*recipe.searches, *STRATEGIES])}")
    twice = next((name for number, name in enumerate(names) if name in names[:number]), None)
    if twice is not None:
        raise UserError(f"{twice} is named twice; name each search once")
    taken = next((name for name in recipe.searches if name in STRATEGIES), None)
    if taken is not None:
        raise UserError(f"searches: {taken} is a name that `compare` has itself; give yours another")


def _common(recipes: Sequence[Recipe]) -> Recipe:
    """A recipe with the groups, and the rank of singular bases, that all searches can be evaluated with.

    Raises:
        UserError: there is no such recipe.
    """
    grouped = [recipe for recipe in recipes if recipe.evolution.groups != "one"]
    if any(recipe.evolution.groups != grouped[0].evolution.groups for recipe in grouped):
        raise UserError("evolution.groups: two of the searches have different ones; compare them one after another")
    mutations = [recipe.evolution.mutation for recipe in recipes if mutates(recipe.strategy)]
    ranks = {mutation.rank for mutation in mutations if mutation.kind == "svd"}
    if len(ranks) > 1:
        raise UserError(
            "mutation.rank: the searches have different ones; state one in the recipe's `evolution.mutation`"
        )
    common = (grouped or list(recipes))[0]
    evolution = common.evolution.model_copy(update={"mutation": SvdMutationConfig(rank=next(iter(ranks), None))})
    return common.model_copy(update={"evolution": evolution})


@contextmanager
def shared_pool(planned: Sequence[Planned]) -> Iterator[tuple[SharedPool, OpenedRecipe]]:
    """A pool for every search, and what it is made from."""
    materials = OpenedRecipe.open(_common([each.recipe for each in planned]))
    mutated = sorted({n for each in planned for n in each.recipe.mutated_experts()})

    def opened() -> Pool:
        return open_pool(materials, materials.materialiser(mutated), mutated)

    with closing(SharedPool(opened, len(materials.groups))) as pool:
        yield pool, materials


def require_searches(planned: Sequence[Planned], materials: OpenedRecipe, rows: Split) -> None:
    """Check every search before the first is run: its strategy, and that its folder holds no other run.

    Raises:
        UserError: something is not fit, or no rows are there to judge on.
    """
    for task in materials.suite:
        if not task.samples(rows):
            raise UserError(f"task {task.name}: sets no rows aside to judge on; raise the recipe's `confirm.share`")
    for each in planned:
        groups = Groups(materials.family.weights, each.recipe.evolution.groups)
        own = replace(materials, recipe=each.recipe, groups=groups)
        start = start_event(own)
        if (each.folder / FILE).is_file():
            with opened_journal(each.folder) as journal:
                start = identify(own, journal)
                closed_run(journal, own)  # refuses to extend one
        Run.begin(each.recipe, start)


def run_searches(
    planned: Sequence[Planned], pool: SharedPool, observing: Observing, deadline: float | None
) -> list[Run]:
    """All searches, each from where its run directory stands to its end; as many side by side as there are workers.

    deadline: a `time.monotonic()` instant at which to stop.

    Raises:
        Interrupted, RunFailed: see `search`.
        UserError: see `search`; or one has evaluated more than its budget.
    """
    at_once = min(worker_count(planned[0].recipe), len(planned))
    if at_once > 1 and any(_complete(each) is None for each in planned):
        this_process()  # made once: two threads that ask for the first time get in each other's way
        pool.open()  # singular bases are computed here, where a signal is heard

    def run_one(each: Planned, own_pool: Pool) -> Run:
        done = _complete(each)
        if done is None:
            hours = None if deadline is None else max(0.0, (deadline - time.monotonic()) / 3600)
            with observing(each, at_once == 1) as observer:
                done = search(each.recipe, observer, pool=own_pool, max_hours=hours)
        if done.generation > each.recipe.evolution.generations:
            raise UserError(
                f"{each.folder}: has evaluated {done.generation} children, more than the budget of "
                f"{each.recipe.evolution.generations}; remove the folder, and the search is made again"
            )
        return done

    return side_by_side(pool, [partial(run_one, each) for each in planned], at_once)


def _complete(planned: Planned) -> Run | None:
    """The search's run, if it is there and at its end."""
    if not (planned.folder / FILE).is_file() or not of_kind(read_events(planned.folder), "session"):
        return None  # it was stopped while it was set up, if it ever was begun
    run = open_run(planned.folder)
    enough = run.generation >= min(planned.recipe.evolution.generations, run.generations)
    return run if run.schedule.done and enough and not to_confirm(run) else None
