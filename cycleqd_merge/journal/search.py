"""From a recipe to what searches: the space, and the strategy in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cycleqd_merge.evolution.cycleqd import CycleQD, Operators
from cycleqd_merge.evolution.genome import Genome, Matrix
from cycleqd_merge.evolution.listed import Listed
from cycleqd_merge.evolution.map_elites import MapElites
from cycleqd_merge.evolution.mixed import Mixed
from cycleqd_merge.evolution.populations import Optimiser, Populations
from cycleqd_merge.evolution.random_search import RandomSearch
from cycleqd_merge.evolution.space import Floor, Objective, SearchSpace
from cycleqd_merge.evolution.strategy import Strategy
from cycleqd_merge.recipe import target
from cycleqd_merge.recipe.evolution import Evolution, GaussianMutation, SvdMutation
from cycleqd_merge.recipe.schema import Recipe, TaskUse, task_name
from cycleqd_merge.recipe.strategies import (
    BayesianStrategy,
    CmaEsStrategy,
    CmaMeStrategy,
    CycleQDStrategy,
    MergekitStrategy,
    Nsga2Strategy,
    PythonStrategy,
    RandomStrategy,
)


def ordered_tasks(recipe: Recipe) -> list[TaskUse]:
    """The tasks in the order of their scores: objectives first, tasks to keep after them."""
    return sorted(recipe.tasks, key=lambda use: use.role != "optimise")


def build_space(recipe: Recipe, groups: int, seeds: tuple[Genome, ...] = ()) -> SearchSpace:
    """The search space of a recipe over `groups` coefficient groups; `seeds` join the experts at the start."""
    experts, tasks = list(recipe.experts), ordered_tasks(recipe)
    objectives = tuple(
        Objective(
            task_name(use),
            None if use.expert is None else experts.index(use.expert),
            use.bins or recipe.evolution.bins,
            use.bounds,
        )
        for use in tasks
        if use.role == "optimise"
    )
    floors = tuple(Floor(column, use.floor) for column, use in enumerate(tasks) if use.floor is not None)
    factors = (recipe.evolution.bounds.low, recipe.evolution.bounds.high)
    levels = tuple(recipe.evolution.warm_start or ())
    race = recipe.evolution.race
    racing = None if race is None else (race.share, race.confidence)
    return SearchSpace(objectives, len(experts), groups, floors, seeds, factors, levels, racing)


def build_strategy(recipe: Recipe, space: SearchSpace, folder: Path) -> Strategy:
    """The strategy that a recipe asks for; a strategy in Python is found from `folder`.

    Raises:
        UserError: the user's own strategy cannot be made, or mergekit lacks what the recipe names.
    """
    chosen, seed = recipe.strategy, recipe.evolution.seed
    match chosen:
        case CycleQDStrategy():
            kind = CycleQD if recipe.evolution.cycling else MapElites
            return kind(space, operators(recipe.evolution), seed)
        case RandomStrategy():
            return RandomSearch(space, seed, chosen.low, chosen.high)
        case CmaEsStrategy():
            return Populations(space, _cma_es(chosen, space, seed))
        case CmaMeStrategy():
            breeder = CycleQD(space, operators(recipe.evolution), seed)
            return Mixed(Populations(space, _cma_me(chosen, space, seed)), breeder, chosen.bred)
        case BayesianStrategy():
            from cycleqd_merge.evolution.bayesian import Bayesian

            breeder = CycleQD(space, operators(recipe.evolution), seed)
            return Mixed(Bayesian(space, chosen.optimism, seed), breeder, chosen.bred)
        case Nsga2Strategy():
            from cycleqd_merge.evolution.nsga2 import Nsga2

            dimensions, tasks = space.experts * space.groups, len(space.objectives)
            return Populations(space, Nsga2(dimensions, tasks, chosen.population, chosen.low, chosen.high, seed))
        case MergekitStrategy():
            from cycleqd_merge.merging.merge_grid import merges

            return Listed(space, merges(recipe, chosen))
        case PythonStrategy():
            arguments = (space, seed)
            own: Strategy = target.create(chosen.target, folder, *arguments, methods=("ask", "tell"), **chosen.options)
            return own


def children(recipe: Recipe, strategy: Strategy) -> int:
    """How many children a run evaluates: as many as the recipe says, unless the strategy has no more."""
    return min(recipe.evolution.generations, getattr(strategy, "generations", recipe.evolution.generations))


def _start(start: float | None, space: SearchSpace) -> Matrix:
    """Where a search over coefficients begins, shape (dimensions,); the experts' plain mean by default."""
    return np.full(space.experts * space.groups, 1.0 / space.experts if start is None else start)


def _cma_me(setting: CmaMeStrategy, space: SearchSpace, seed: int) -> Optimiser:
    from cycleqd_merge.evolution.cma_me import CmaMe

    return CmaMe(space, _start(setting.start, space), setting.sigma, setting.population, seed)


def _cma_es(setting: CmaEsStrategy, space: SearchSpace, seed: int) -> Optimiser:
    from cycleqd_merge.evolution.cma_es import CmaEs

    weights = [1.0 if setting.weights is None else setting.weights.get(each.name, 0.0) for each in space.objectives]
    return CmaEs(_start(setting.start, space), setting.sigma, setting.population, np.array(weights), seed)


def operators(evolution: Evolution) -> Operators:
    """CycleQD's settings out of a recipe."""
    mutation = evolution.mutation
    scale = 0.0
    if isinstance(mutation, SvdMutation):
        scale = mutation.w_max
    elif isinstance(mutation, GaussianMutation):
        scale = mutation.std
    return Operators(
        mu=evolution.mu,
        sigma=evolution.sigma,
        mutation=mutation.kind,
        scale=scale,
        signed=isinstance(mutation, SvdMutation) and mutation.signed,
        sampling=evolution.sampling,
        alpha_low=evolution.alpha_low,
        alpha_high=evolution.alpha_high,
        scaling=evolution.scaling,
        mates=evolution.mates,
        adaptive=evolution.adaptive,
    )
