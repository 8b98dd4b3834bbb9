"""The runs of a comparison: one ordinary run per strategy and seed, on the same data, budget and engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

from cycleqd_merge.comparison.named_strategies import STRATEGIES, learned_strategies, with_strategy
from cycleqd_merge.comparison.parallel_runs import run_in_parallel
from cycleqd_merge.comparison.shared_pool import SharedPool
from cycleqd_merge.config.evolution import SvdMutationConfig
from cycleqd_merge.config.recipe import FinishConfig, Recipe
from cycleqd_merge.config.strategies import mutates
from cycleqd_merge.errors import RecipeError, TaskError
from cycleqd_merge.evaluation.opened_recipe import OpenedRecipe
from cycleqd_merge.evaluation.pools.cluster import worker_count
from cycleqd_merge.evaluation.pools.opening import open_pool
from cycleqd_merge.evaluation.pools.pool import Pool
from cycleqd_merge.journal.log import JOURNAL_FILE, complete_events, of_kind, opened_journal
from cycleqd_merge.merging.groups import Groups
from cycleqd_merge.merging.mergekit_plan import require_candidates
from cycleqd_merge.merging.processes import this_process
from cycleqd_merge.run.confirm import to_confirm
from cycleqd_merge.run.identity import start_event
from cycleqd_merge.run.observer import Observer, Tolerated
from cycleqd_merge.run.opening import changed_semantics, closed_run, identify
from cycleqd_merge.run.state import Run, open_run
from cycleqd_merge.session.search import search
from cycleqd_merge.tasks.protocol import Split


@dataclass(frozen=True)
class PlannedRun:
    """The run of a strategy with one seed: its recipe, whose output is the run directory."""

    strategy: str
    seed: int
    recipe: Recipe

    @property
    def folder(self) -> Path:
        """The run directory."""
        return Path(self.recipe.output)


@dataclass(frozen=True)
class Budget:
    """How long each run is: the number of children scored on all rows, and the seconds after which it proposes no more
    children; None: no limit."""

    children: int
    seconds: float | None = None


ObserverFactory = Callable[[PlannedRun, bool], AbstractContextManager[Observer]]
"""Creates the observer of a run, given whether it is the only run in progress."""


def plan_runs(
    recipe: Recipe,
    strategies: Sequence[str],
    budget: Budget,
    seeds: int,
    out: Path,
    rows: Split,
    presets: Mapping[str, str] = MappingProxyType({}),
    own_seeds: Mapping[str, int] = MappingProxyType({}),
) -> list[PlannedRun]:
    """A run for every strategy and seed, starting at the recipe's seed; static merges, which use no seed, run once.

    Strategies that learn a model without a search have no run. rows: the final split; if it is the confirmation split,
    elites are not confirmed. presets: versions of presets without one. own_seeds: by strategy, its number of seeds if
    it is not `seeds`. The number of workers does not affect results.

    Raises:
        RecipeError: a strategy is unknown or named twice, or two need different groups or singular bases.
    """
    _require_names(recipe, strategies)
    planned: list[PlannedRun] = []
    learned = learned_strategies(recipe, strategies)
    for name in own_seeds:
        if name in learned or with_strategy(recipe, name, presets).strategy.kind == "mergekit":
            raise RecipeError(
                f"{name}:{own_seeds[name]}: {name} has no number of seeds of its own; list it without one"
            )
    if strategies[0] in learned:
        raise RecipeError(
            f"{strategies[0]}: cannot be listed first, because it has no run; list one that searches first"
        )
    for name in strategies:
        if name in learned:
            continue
        own_recipe = with_strategy(recipe, name, presets)
        first = own_recipe.evolution.seed
        count = 1 if own_recipe.strategy.kind == "mergekit" else own_seeds.get(name, seeds)
        for seed in range(first, first + count):
            length = {"seed": seed, "generations": _children(own_recipe, budget), "seconds": budget.seconds}
            length["in_flight"] = _in_flight(own_recipe)
            evolution = own_recipe.evolution.model_copy(update=length)
            confirm = own_recipe.confirm.model_copy(update={"top": 0} if rows == "confirm" else {})
            output = str(out / name / f"seed-{seed}")
            own = {"evolution": evolution, "confirm": confirm, "output": output, "finish": FinishConfig(), "hub": None}
            planned.append(PlannedRun(name, seed, own_recipe.model_copy(update=own)))
    if planned[0].recipe.strategy.kind == "mergekit":
        raise RecipeError(
            f"{strategies[0]}: static merges cannot be listed first, because all models are compared with the first "
            "strategy's best-mean elite; list a different strategy first"
        )
    if learned and all(each.recipe.fit is None for each in planned):
        raise RecipeError(
            f"{next(iter(learned))}: learns from the answers that a strategy with fits records; add one to "
            "the list, such as fits"
        )
    _common_recipe([each.recipe for each in planned])
    return planned


def _children(recipe: Recipe, budget: Budget) -> int:
    """The number of children of a run: more if nearly all of them are scored on part of the rows alone."""
    race = recipe.evolution.race
    return budget.children if race is None or race.best is None else round(budget.children / race.share)


def _in_flight(recipe: Recipe) -> int | None:
    """Children in flight: as many as with one worker, because other runs use the other workers; the recipe's setting
    for a strategy that learns nothing from scores."""
    learns = recipe.strategy.kind not in ("mergekit", "random")
    return recipe.evolution.children_in_flight(1) if learns else recipe.evolution.in_flight


def named_with_seeds(strategies: Sequence[str]) -> tuple[list[str], dict[str, int]]:
    """The names of strategies, and by name the number of seeds of those that are written as `name:number`.

    Raises:
        RecipeError: a number is not a whole one above 0.
    """
    names, own = list[str](), dict[str, int]()
    for each in strategies:
        name, colon, number = each.partition(":")
        names.append(name)
        if not colon:
            continue
        if not (number.isascii() and number.isdigit() and int(number[:9]) > 0):
            raise RecipeError(f"{each}: after the colon, state the strategy's number of seeds, as in {name}:3")
        own[name] = int(number)
    return names, own


def _require_names(recipe: Recipe, strategies: Sequence[str]) -> None:
    if not strategies:
        raise RecipeError(f"no strategy given; available: {', '.join([*recipe.strategies, *STRATEGIES])}")
    twice = next((name for number, name in enumerate(strategies) if name in strategies[:number]), None)
    if twice is not None:
        raise RecipeError(f"{twice} is listed twice; list each strategy once")
    taken = next((name for name in recipe.strategies if name in STRATEGIES), None)
    if taken is not None:
        raise RecipeError(f"strategies.{taken}: this name belongs to a built-in strategy; choose a different name")


def _common_recipe(recipes: Sequence[Recipe]) -> Recipe:
    """A recipe with the groups, and the rank of singular bases, that can evaluate the children of all strategies; with
    a `fit` section if any has one, so that the engine can be released for it.

    Raises:
        RecipeError: there is no such recipe.
    """
    grouped = [recipe for recipe in recipes if recipe.evolution.groups != "one"]
    if any(recipe.evolution.groups != grouped[0].evolution.groups for recipe in grouped):
        raise RecipeError(
            "evolution.groups: two strategies have different groups; compare them in separate comparisons"
        )
    with_bases = [each for each in recipes if mutates(each.strategy) or (each.fit and each.fit.scales == "singular")]
    mutations = [recipe.evolution.mutation for recipe in with_bases]
    ranks = {mutation.rank for mutation in mutations if mutation.kind == "svd" and mutation.of == "expert"}
    if len(ranks) > 1:
        raise RecipeError(
            "mutation.rank: the strategies have different ranks; set one in the recipe's `evolution.mutation`"
        )
    common = (grouped or list(recipes))[0]
    evolution = common.evolution.model_copy(update={"mutation": SvdMutationConfig(rank=next(iter(ranks), None))})
    fit = next((each.fit for each in recipes if each.fit is not None), None)
    return common.model_copy(update={"evolution": evolution, "fit": fit})


@contextmanager
def open_shared_pool(planned: Sequence[PlannedRun]) -> Iterator[tuple[SharedPool, OpenedRecipe]]:
    """A pool for all runs, and the opened recipe that it evaluates with."""
    opened = OpenedRecipe.open(_common_recipe([each.recipe for each in planned]))
    mutated = sorted({n for each in planned for n in each.recipe.mutated_experts()})

    def open_workers() -> Pool:
        return open_pool(opened, opened.materialiser(mutated), mutated)

    with closing(SharedPool(open_workers, len(opened.groups))) as pool:
        yield pool, opened


def check_runs(planned: Sequence[PlannedRun], opened: OpenedRecipe, rows: Split) -> list[str]:
    """Check every run before the first starts: its strategy, and that its directory contains no different run.

    Returns the semantics versions that have changed since the complete runs; see `changed_semantics`.

    Raises:
        UserError: a run cannot be started or resumed, or a task has no rows in the final split.
    """
    changed: dict[str, None] = {}
    for task in opened.suite:
        if not task.samples(rows):
            raise TaskError(f"task {task.name}: the confirmation split is empty; raise the recipe's `confirm.share`")
    if any(each.recipe.strategy.kind == "mergekit" for each in planned):
        require_candidates(opened.family)
    for each in planned:
        groups = Groups(opened.family.weights, each.recipe.evolution.groups)
        own = replace(opened, recipe=each.recipe, groups=groups)
        start = start_event(own)
        if (each.folder / JOURNAL_FILE).is_file():
            with opened_journal(each.folder) as journal:
                start = identify(own, journal)
                closed = closed_run(journal, own)  # refuses to extend a run of other semantics versions
                if closed is not None:
                    changed |= dict.fromkeys(changed_semantics(closed.start, closed.sessions, own))
        Run.begin(each.recipe, start)
    return list(changed)


def complete_runs(
    planned: Sequence[PlannedRun], pool: SharedPool, observers: ObserverFactory, deadline: float | None
) -> list[Run]:
    """Start or resume every run and complete it; as many at the same time as there are workers.

    deadline: a `time.monotonic()` instant at which to stop.

    Raises:
        Interrupted, RunFailed: see `search`.
        UserError: see `search`; or a run has evaluated more children than the budget.
    """
    at_once = min(worker_count(planned[0].recipe), len(planned))
    if at_once > 1 and any(_complete_run(each) is None for each in planned):
        this_process()  # created here: two threads that create it at the same time would interfere
        pool.open()  # singular bases are computed here, in the thread that receives signals

    def complete(each: PlannedRun, own_pool: Pool) -> Run:
        run = _complete_run(each)
        if run is None:
            hours = None if deadline is None else max(0.0, (deadline - time.monotonic()) / 3600)
            with observers(each, at_once == 1) as observer:
                run = search(each.recipe, Tolerated(observer), pool=own_pool, max_hours=hours)
        if run.generation > each.recipe.evolution.generations:
            raise RecipeError(
                f"{each.folder}: has evaluated {run.generation} children, more than the budget of "
                f"{each.recipe.evolution.generations}; remove this folder and rerun `compare` to repeat the run"
            )
        return run

    return run_in_parallel(pool, [partial(complete, each) for each in planned], at_once)


def all_complete(planned: Sequence[PlannedRun]) -> bool:
    """Whether every run is on disk and complete."""
    return all(_complete_run(each) is not None for each in planned)


def _complete_run(planned: PlannedRun) -> Run | None:
    """The run on disk if it is complete."""
    if not (planned.folder / JOURNAL_FILE).is_file() or not of_kind(complete_events(planned.folder), "session"):
        return None  # never started, or stopped while it was set up
    run = open_run(planned.folder)
    enough = run.generation >= min(planned.recipe.evolution.generations, run.generations)
    return run if run.schedule.done and enough and not to_confirm(run) else None
