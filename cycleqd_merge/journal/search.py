"""From a recipe to what searches: the space, and the strategy in it."""

from __future__ import annotations

from pathlib import Path

from cycleqd_merge.evolution.cycleqd import CycleQD, Operators
from cycleqd_merge.evolution.genome import Genome
from cycleqd_merge.evolution.space import Floor, Objective, SearchSpace
from cycleqd_merge.evolution.strategy import Strategy
from cycleqd_merge.recipe import target
from cycleqd_merge.recipe.schema import Evolution, GaussianMutation, Recipe, SvdMutation, TaskUse, task_name


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
    return SearchSpace(objectives, len(experts), groups, floors, seeds, factors)


def build_strategy(recipe: Recipe, space: SearchSpace, folder: Path) -> Strategy:
    """The strategy that a recipe asks for; a strategy in Python is found from `folder`.

    Raises:
        UserError: the user's own strategy cannot be made.
    """
    chosen = recipe.strategy
    if chosen.kind == "python":
        arguments = (space, recipe.evolution.seed)
        strategy: Strategy = target.create(chosen.target, folder, *arguments, methods=("ask", "tell"), **chosen.options)
        return strategy
    return CycleQD(space, operators(recipe.evolution), recipe.evolution.seed)


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
    )
