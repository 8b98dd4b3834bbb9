"""What a recipe names, opened: models, groups and tasks, and the worker that they make."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.config.strategies import mutates
from cycleqd_merge.evaluation.engines.engine import open_engine
from cycleqd_merge.evaluation.worker import Worker
from cycleqd_merge.merging.bases import BasesProgress, Rank, prepare_bases
from cycleqd_merge.merging.family import ModelFamily, open_model_family
from cycleqd_merge.merging.groups import Groups
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.processes import this_process
from cycleqd_merge.tasks.suite import Suite, open_suite


@dataclass(frozen=True)
class OpenedRecipe:
    """A recipe with its models, coefficient groups and tasks opened."""

    recipe: Recipe
    family: ModelFamily
    groups: Groups
    suite: Suite

    @classmethod
    def open(cls, recipe: Recipe) -> OpenedRecipe:
        """Open everything that a recipe names.

        Raises:
            UserError: something cannot be opened.
        """
        suite = open_suite(recipe)
        family = open_model_family(recipe)
        return cls(recipe, family, Groups(family.weights, recipe.evolution.groups), suite)

    def mutated_experts(self, seeds: Sequence[dict[str, Any]] = ()) -> set[int]:
        """Numbers of the experts whose singular bases the run needs, for its own mutations and those of its seeds."""
        inherited = {mutation.get("expert") for seed in seeds for mutation in seed["genome"]["mutations"]} - {None}
        strategy = self.recipe.strategy
        if not mutates(strategy) or self.recipe.evolution.mutation.kind != "svd":
            return inherited
        names = list(self.recipe.experts)
        uses = [use.expert for use in self.recipe.tasks if use.role == "optimise"]
        any_expert = None in uses or not self.recipe.evolution.cycling
        drawn_from = names if any_expert else [name for name in uses if name is not None]
        return inherited | {names.index(name) for name in drawn_from}

    @property
    def rank(self) -> Rank:
        """How the singular bases are truncated."""
        mutation = self.recipe.evolution.mutation
        return mutation.rank if mutation.kind == "svd" else None

    def materialiser(self, experts: Iterable[int], progress: BasesProgress | None = None) -> Materialiser:
        """The materialiser on the engine's device, with the bases of `experts` (computed now if not cached).

        vLLM's workers open their own; this one is the plan that they follow, and builds what is exported.
        """
        bases = prepare_bases(self.family, sorted(experts), progress, self.rank)
        engine = self.recipe.engine
        stated = engine.device if engine.kind == "transformers" else None
        return Materialiser(self.family, self.groups, bases, stated or this_process().device)

    def worker(self, materialiser: Materialiser, neighbours: int = 1) -> Worker:
        """A worker on the recipe's engine, one of so many on this host."""
        return Worker(open_engine(self.recipe.engine, materialiser, neighbours), self.suite)


def open_worker(recipe: Recipe, experts: Iterable[int], neighbours: int = 1) -> Worker:
    """A worker of its own, in whatever process this is; `experts` are those whose singular bases are needed.

    neighbours: workers on this host, this one included.

    Raises:
        UserError: something that the recipe names cannot be opened.
    """
    materials = OpenedRecipe.open(recipe)
    return materials.worker(materials.materialiser(experts), neighbours)
