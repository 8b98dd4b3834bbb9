"""Build the search space and the strategy of a recipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cycleqd_merge.config import user_code
from cycleqd_merge.config.archives import novelty_capacity
from cycleqd_merge.config.evolution import EvolutionConfig, GaussianMutationConfig, SvdMutationConfig
from cycleqd_merge.config.recipe import Recipe, TaskConfig, task_name
from cycleqd_merge.config.strategies import (
    BayesianConfig,
    CmaEsConfig,
    CmaMeConfig,
    CoefficientRangeConfig,
    CycleQDConfig,
    MergekitConfig,
    NoSearchConfig,
    Nsga2Config,
    PythonStrategyConfig,
    RandomConfig,
)
from cycleqd_merge.errors import RecipeError
from cycleqd_merge.evolution.candidate import Candidate
from cycleqd_merge.evolution.genome import Genome
from cycleqd_merge.strategies.bayesian import Bayesian
from cycleqd_merge.strategies.cma_me import CmaMe
from cycleqd_merge.strategies.cycleqd import CycleQD, Operators
from cycleqd_merge.strategies.listed import Listed
from cycleqd_merge.strategies.map_elites import MapElites
from cycleqd_merge.strategies.mixed import Mixed
from cycleqd_merge.strategies.optimisers import CmaEs, Level, Nsga2, PopulationStrategy, RandomSearch
from cycleqd_merge.strategies.protocol import Strategy
from cycleqd_merge.strategies.racing import Racing
from cycleqd_merge.strategies.space import Floor, Objective, SearchSpace
from cycleqd_merge.strategies.state import SearchState

_MAX_VALUES = 100_000_000

Merges = Callable[[Recipe, MergekitConfig], Sequence[tuple[Candidate, dict[str, Any]]]]
"""Lists the mergekit configurations of a recipe, each with its step."""


def ordered_tasks(recipe: Recipe) -> list[TaskConfig]:
    """The tasks in the order of their scores: objectives first, then the tasks to keep."""
    return sorted(recipe.tasks, key=lambda use: use.role != "optimise")


def build_space(recipe: Recipe, groups: int, founders: tuple[Genome, ...] = (), fits: int = 0) -> SearchSpace:
    """The search space of a recipe over `groups` coefficient groups.

    founders: join the experts in generation 0. fits: number of fits that join them later.
    """
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
    racing = None
    if race is not None:
        racing = Racing(race.share, race.confidence, race.rows == "difficulty", race.best)
    return SearchSpace(
        objectives,
        len(experts),
        groups,
        floors,
        founders,
        factors,
        levels,
        racing,
        fits,
        novelty_capacity(recipe),
    )


def build_strategy(recipe: Recipe, state: SearchState, merges: Merges) -> Strategy:
    """The strategy that a recipe asks for.

    merges: lists the candidates of a `mergekit` strategy; the caller passes `merging.merge_grid.static_merges`, since
    strategies do not depend on merging.

    Raises:
        UserError: the user's own strategy cannot be created, mergekit lacks a method or parameter that the recipe
            names, or an optional library is not installed.
    """
    chosen, seed = recipe.strategy, recipe.evolution.seed
    match chosen:
        case CycleQDConfig():
            kind = CycleQD if recipe.evolution.cycling else MapElites
            return kind(state, build_operators(recipe.evolution), seed)
        case RandomConfig():
            return RandomSearch(state, seed, *_box(chosen, state.space))
        case CmaEsConfig():
            return PopulationStrategy(state, _cma_es(chosen, state.space, seed))
        case CmaMeConfig():
            cma_me = CmaMe(state, state.space.centre(chosen.start), chosen.sigma, chosen.population, seed)
            cycleqd = CycleQD(state, build_operators(recipe.evolution), seed)
            return Mixed(PopulationStrategy(state, cma_me), cycleqd, chosen.bred)
        case BayesianConfig():
            cycleqd = CycleQD(state, build_operators(recipe.evolution), seed)
            return Mixed(Bayesian(state, chosen.optimism, seed, chosen.noise), cycleqd, chosen.bred)
        case Nsga2Config():
            dimensions, tasks = state.space.dimensions, len(state.objectives)
            nsga2 = Nsga2(dimensions, tasks, chosen.population, *_box(chosen, state.space), seed)
            return PopulationStrategy(state, nsga2)
        case MergekitConfig():
            return Listed(state, merges(recipe, chosen))
        case NoSearchConfig():
            return Listed(state, ())
        case PythonStrategyConfig():
            arguments = (state, seed)
            own: Strategy = user_code.create(chosen.target, *arguments, methods=("ask", "tell"), **chosen.options)
            return own


def child_count(recipe: Recipe, strategy: Strategy) -> int:
    """The number of children that a run evaluates: the recipe's generations, or the strategy's if it has fewer."""
    return min(recipe.evolution.generations, getattr(strategy, "generations", recipe.evolution.generations))


def require_memory(recipe: Recipe, dimensions: int, in_flight: int, place: str = "") -> None:
    """Refuse a search whose strategy would need gigabytes. place: put before the message.

    Raises:
        RecipeError: there are too many coefficients for the strategy, its population or the children in flight.
    """
    strategy, coefficients = recipe.strategy, dimensions
    children = max(in_flight, getattr(strategy, "population", None) or 0)
    matrices = {"cma-es": 1, "cma-me": 1 + len(recipe.tasks)}.get(strategy.kind, 0)  # coefficients x coefficients
    if children * coefficients > _MAX_VALUES or matrices * coefficients**2 > _MAX_VALUES:
        raise RecipeError(
            f"{place}evolution.groups: {strategy.kind} cannot search {coefficients:,} coefficients with {children:,} "
            "children at a time; use fewer groups or children"
        )


def _box(chosen: CoefficientRangeConfig, space: SearchSpace) -> tuple[Level, Level]:
    """The lowest and the highest point that a strategy may propose: with fits, as far around the first one."""
    if space.dimensions == space.experts * space.groups:
        return chosen.low, chosen.high
    reach = (chosen.high - chosen.low) / 2
    return space.centre() - reach, space.centre() + reach


def _cma_es(setting: CmaEsConfig, space: SearchSpace, seed: int) -> CmaEs:
    weights = [1.0 if setting.weights is None else setting.weights.get(each.name, 0.0) for each in space.objectives]
    return CmaEs(space.centre(setting.start), setting.sigma, setting.population, np.array(weights), seed)


def build_operators(evolution: EvolutionConfig) -> Operators:
    """The settings of CycleQD's operators that a recipe gives."""
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
        of=mutation.of if isinstance(mutation, SvdMutationConfig) else "expert",
        signed=isinstance(mutation, SvdMutationConfig) and mutation.signed,
        sampling=evolution.sampling,
        alpha_low=evolution.alpha_low,
        alpha_high=evolution.alpha_high,
        scaling=evolution.scaling,
        mates=evolution.mates,
        adaptive=evolution.adaptive,
    )
