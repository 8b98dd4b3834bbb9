"""The pool that a recipe asks for."""

from __future__ import annotations

from collections.abc import Sequence

from cycleqd_merge.evaluation.opened_recipe import OpenedRecipe
from cycleqd_merge.evaluation.pools.cluster import worker_count
from cycleqd_merge.evaluation.pools.pool import LocalPool, Pool
from cycleqd_merge.evaluation.pools.ray_pool import RayPool
from cycleqd_merge.merging.materialise import Materialiser


def open_pool(opened: OpenedRecipe, materialiser: Materialiser, mutated: Sequence[int]) -> Pool:
    """One worker in this process, or as many on Ray as the recipe asks for.

    mutated: numbers of the experts whose singular bases the workers need.
    """
    recipe = opened.recipe
    workers = worker_count(recipe)
    if workers == 1 and recipe.ray_address is None:
        return LocalPool(opened.worker(materialiser))
    family = opened.family
    digests = (family.base.digest, {each.name: each.digest for each in family.experts})
    return RayPool(recipe, mutated, workers, recipe.ray_address, digests=digests)
