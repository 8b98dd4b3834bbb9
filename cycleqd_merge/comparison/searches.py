"""The searches of a comparison: ordinary runs beside each other, on the same data, budget and engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from cycleqd_merge.comparison.shared_pool import SharedPool
from cycleqd_merge.errors import UserError
from cycleqd_merge.evaluation.materials import Materials
from cycleqd_merge.evaluation.pool import Pool
from cycleqd_merge.journal.log import FILE
from cycleqd_merge.journal.replay import Replay, open_run
from cycleqd_merge.recipe.rivals import with_search
from cycleqd_merge.recipe.schema import Finish, Recipe
from cycleqd_merge.run.confirm import to_confirm
from cycleqd_merge.run.evolve import Observer
from cycleqd_merge.run.session import open_pool, run_recipe
from cycleqd_merge.tasks.protocol import Rows


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


Observing = Callable[[Planned], AbstractContextManager[Observer]]


def planned_searches(
    recipe: Recipe, names: Sequence[str], budget: int, seeds: int, out: Path, rows: Rows
) -> list[Planned]:
    """Every search with every seed, from the recipe's seed on; static merges, which no seed changes, once.

    budget: children that each evaluates. rows: what will judge them; those set aside confirm no elites then.

    Raises:
        UserError: no search has such a name, one is named twice, or two need other groups.
    """
    twice = next((name for number, name in enumerate(names) if name in names[:number]), None)
    if twice is not None:
        raise UserError(f"{twice} is named twice; name each search once")
    planned = []
    for name in names:
        search = with_search(recipe, name)
        first = search.evolution.seed
        for seed in range(first, first + (1 if search.strategy.kind == "mergekit" else seeds)):
            evolution = search.evolution.model_copy(update={"seed": seed, "generations": budget})
            confirm = search.confirm.model_copy(update={"top": 0} if rows == "confirm" else {})
            output = str(out / name / f"seed-{seed}")
            own = {"evolution": evolution, "confirm": confirm, "output": output, "finish": Finish(), "hub": None}
            planned.append(Planned(name, seed, search.model_copy(update=own)))
    _finest([each.recipe for each in planned])
    return planned


def _finest(recipes: Sequence[Recipe]) -> Recipe:
    """One of the recipes whose groups are those of all that have more than one.

    Raises:
        UserError: two have different groups.
    """
    grouped = [recipe for recipe in recipes if recipe.evolution.groups != "one"]
    if any(recipe.evolution.groups != grouped[0].evolution.groups for recipe in grouped):
        raise UserError("evolution.groups: the searches have different ones; state those of all of them in the recipe")
    return (grouped or list(recipes))[0]


@contextmanager
def shared_pool(planned: Sequence[Planned], folder: Path) -> Iterator[tuple[SharedPool, Materials]]:
    """A pool for every search, and what it is made from."""
    materials = Materials.open(_finest([each.recipe for each in planned]), folder)
    mutated = sorted({n for each in planned for n in replace(materials, recipe=each.recipe).mutated_experts()})

    def opened() -> Pool:
        return open_pool(materials, materials.materialiser(mutated), mutated)

    with closing(SharedPool(opened, len(materials.groups))) as pool:
        yield pool, materials


def run_searches(
    planned: Sequence[Planned], folder: Path, pool: Pool, observing: Observing, deadline: float | None
) -> list[Replay]:
    """All searches, each from where its run directory stands to its end.

    deadline: a `time.monotonic()` instant at which to stop.

    Raises:
        Interrupted, RunFailed: see `run_recipe`.
        UserError: see `run_recipe`; or one has evaluated more than its budget.
    """
    replays = []
    for search in planned:
        done = _complete(search)
        if done is None:
            hours = None if deadline is None else max(0.0, (deadline - time.monotonic()) / 3600)
            with observing(search) as observer:
                done = run_recipe(search.recipe, folder, observer, pool=pool, max_hours=hours)
        assert done is not None  # only processes beside the first of several return no run
        if done.generation > search.recipe.evolution.generations:
            raise UserError(
                f"{search.folder}: has evaluated {done.generation} children, more than the budget of "
                f"{search.recipe.evolution.generations}; remove the folder, and the search is made again"
            )
        replays.append(done)
    return replays


def _complete(search: Planned) -> Replay | None:
    """The search's run, if it is there and at its end."""
    if not (search.folder / FILE).is_file():
        return None
    replay = open_run(search.folder)
    enough = replay.generation >= min(search.recipe.evolution.generations, replay.generations)
    return replay if replay.schedule.done and enough and not to_confirm(replay) else None
