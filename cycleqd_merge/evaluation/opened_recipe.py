"""A recipe with its models and tasks opened, and the workers that evaluate with them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.evaluation.engines.engine import open_engine
from cycleqd_merge.evaluation.worker import Worker
from cycleqd_merge.merging.bases import BasesProgress, prepare_bases
from cycleqd_merge.merging.family import ModelDigests, ModelFamily, open_family
from cycleqd_merge.merging.groups import Groups
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.processes import launched_here, this_process
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
        family = open_family(recipe.pinned_models())
        return cls(recipe, family, Groups(family.weights, recipe.evolution.groups), suite)

    def materialiser(self, experts: Iterable[int], progress: BasesProgress | None = None) -> Materialiser:
        """The materialiser on the engine's device, with the bases of `experts` (computed now if not cached).

        vLLM's worker processes open an equal one from its `MaterialiserSpec`; this one builds exports.
        """
        bases = prepare_bases(self.family, sorted(experts), progress, self.recipe.rank)
        engine = self.recipe.engine
        device = engine.device if engine.kind == "transformers" else None
        return Materialiser(self.family, self.groups, bases, device or this_process().device)

    def worker(self, materialiser: Materialiser, workers_per_host: int = 1) -> Worker:
        """A worker on the recipe's engine. workers_per_host: the number on this host, this one included."""
        engine = open_engine(self.recipe.engine, materialiser, workers_per_host, self.recipe.fit is not None)
        per_gpu = self.recipe.engine.per_gpu if self.recipe.engine.kind == "vllm" else 1
        return Worker(engine, self.suite, materialiser, self._fit_processes(materialiser.device), per_gpu)

    def _fit_processes(self, device: torch.device) -> int:
        """How many processes learn a fit together: as many as `accelerate launch` started, or as the engine has GPUs.

        One if the recipe names a device.
        """
        engine = self.recipe.engine
        if engine.kind == "transformers" and engine.device is not None:
            return 1
        wanted = launched_here()
        if engine.kind == "vllm" and device.type == "cuda":
            wanted = max(wanted, int(engine.options.get("tensor_parallel_size", 1)))
        return min(wanted, torch.cuda.device_count()) if device.type == "cuda" else wanted


def open_worker(
    recipe: Recipe, experts: Iterable[int], workers_per_host: int = 1, digests: ModelDigests | None = None
) -> Worker:
    """Open a recipe in this process, and a worker for it.

    experts: numbers of those whose singular bases are needed. workers_per_host: see `OpenedRecipe.worker`. digests: of
    the models with which the run began.

    Raises:
        UserError: something that the recipe names cannot be opened, or a model has changed.
    """
    opened = OpenedRecipe.open(recipe)
    if digests is not None:
        opened.family.require_digests(*digests)
    return opened.worker(opened.materialiser(experts), workers_per_host)
