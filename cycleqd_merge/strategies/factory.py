"""From a recipe to what searches: the space, and the strategy in it."""

from __future__ import annotations

import numpy as np

from cycleqd_merge.config import user_code
from cycleqd_merge.config.evolution import EvolutionConfig, GaussianMutationConfig, SvdMutationConfig
from cycleqd_merge.config.recipe import Recipe, TaskConfig, task_name
from cycleqd_merge.config.strategies import (
    BayesianConfig,
    CmaEsConfig,
    CmaMeConfig,
    CycleQDConfig,
    MergekitConfig,
    Nsga2Config,
    PythonStrategyConfig,
    RandomConfig,
)
from cycleqd_merge.evolution.genome import Genome, Matrix
from cycleqd_merge.strategies.cycleqd import CycleQD, Operators
from cycleqd_merge.strategies.listed import Listed
from cycleqd_merge.strategies.map_elites import MapElites
from cycleqd_merge.strategies.mixed import Mixed
from cycleqd_merge.strategies.populations import Optimiser, Populations
from cycleqd_merge.strategies.protocol import Strategy
from cycleqd_merge.strategies.random_search import RandomSearch
from cycleqd_merge.strategies.space import Floor, Objective, SearchSpace


def ordered_tasks(recipe: Recipe) -> list[TaskConfig]:
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


def build_strategy(recipe: Recipe, space: SearchSpace) -> Strategy:
    """The strategy that a recipe asks for.

    Raises:
        UserError: the user's own strategy cannot be made, or mergekit lacks what the recipe names.
    """
    chosen, seed = recipe.strategy, recipe.evolution.seed
    match chosen:
        case CycleQDConfig():
            kind = CycleQD if recipe.evolution.cycling else MapElites
            return kind(space, operators(recipe.evolution), seed)
        case RandomConfig():
            return RandomSearch(space, seed, chosen.low, chosen.high)
        case CmaEsConfig():
            return Populations(space, _cma_es(chosen, space, seed))
        case CmaMeConfig():
            breeder = CycleQD(space, operators(recipe.evolution), seed)
            return Mixed(Populations(space, _cma_me(chosen, space, seed)), breeder, chosen.bred)
        case BayesianConfig():
            from cycleqd_merge.strategies.bayesian import Bayesian

            breeder = CycleQD(space, operators(recipe.evolution), seed)
            return Mixed(Bayesian(space, chosen.optimism, seed), breeder, chosen.bred)
        case Nsga2Config():
            from cycleqd_merge.strategies.nsga2 import Nsga2

            dimensions, tasks = space.experts * space.groups, len(space.objectives)
            return Populations(space, Nsga2(dimensions, tasks, chosen.population, chosen.low, chosen.high, seed))
        case MergekitConfig():
            from cycleqd_merge.merging.merge_grid import merges

            return Listed(space, merges(recipe, chosen))
        case PythonStrategyConfig():
            arguments = (space, seed)
            own: Strategy = user_code.create(chosen.target, *arguments, methods=("ask", "tell"), **chosen.options)
            return own


def children(recipe: Recipe, strategy: Strategy) -> int:
    """How many children a run evaluates: as many as the recipe says, unless the strategy has no more."""
    return min(recipe.evolution.generations, getattr(strategy, "generations", recipe.evolution.generations))


def _start(start: float | None, space: SearchSpace) -> Matrix:
    """Where a search over coefficients begins, shape (dimensions,); the experts' plain mean by default."""
    return np.full(space.experts * space.groups, 1.0 / space.experts if start is None else start)


def _cma_me(setting: CmaMeConfig, space: SearchSpace, seed: int) -> Optimiser:
    from cycleqd_merge.strategies.cma_me import CmaMe

    return CmaMe(space, _start(setting.start, space), setting.sigma, setting.population, seed)


def _cma_es(setting: CmaEsConfig, space: SearchSpace, seed: int) -> Optimiser:
    from cycleqd_merge.strategies.cma_es import CmaEs

    weights = [1.0 if setting.weights is None else setting.weights.get(each.name, 0.0) for each in space.objectives]
    return CmaEs(_start(setting.start, space), setting.sigma, setting.population, np.array(weights), seed)


def operators(evolution: EvolutionConfig) -> Operators:
    """CycleQD's settings out of a recipe."""
    mutation = evolution.mutation
    scale = 0.0
    if isinstance(mutation, SvdMutationConfig):
        scale = mutation.w_max
    elif isinstance(mutation, GaussianMutationConfig):
        scale = mutation.std
    return Operators(
        mu=evolution.mu,
        sigma=evolution.sigma,
        mutation=mutation.kind,
        scale=scale,
        signed=isinstance(mutation, SvdMutationConfig) and mutation.signed,
        sampling=evolution.sampling,
        alpha_low=evolution.alpha_low,
        alpha_high=evolution.alpha_high,
        scaling=evolution.scaling,
        mates=evolution.mates,
        adaptive=evolution.adaptive,
    )
