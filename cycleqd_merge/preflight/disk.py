"""Disk space that a run will use: downloads and singular bases in the caches, exported models in its directory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from math import prod
from pathlib import Path

from huggingface_hub import constants
from rich.filesize import decimal

from cycleqd_merge.config.recipe import PinnedModels, Recipe
from cycleqd_merge.errors import RecipeError
from cycleqd_merge.merging.bases import Rank, basis_folder, missing_bases
from cycleqd_merge.merging.download import hub_models, pending_download
from cycleqd_merge.merging.family import ModelFamily
from cycleqd_merge.merging.sizes import FLOAT32, basis_bytes, model_bytes
from cycleqd_merge.outputs.export import finished_folder
from cycleqd_merge.preflight.plan_result import DiskUse, existing


def disk_uses(recipe: Recipe, family: ModelFamily, mutated: Sequence[int], rank: Rank = None) -> list[DiskUse]:
    """Disk space that a run will use. mutated: experts whose singular bases it needs. rank: how these are truncated."""
    uses = []
    for expert in mutated:
        needed = sum(basis_bytes(each, family.experts[expert], rank) for each in missing_bases(family, expert, rank))
        folder = basis_folder(family, expert, rank)
        uses.append(DiskUse(f"singular bases of {family.experts[expert].name}", str(folder), needed))
    model, generations = _exported_bytes(recipe, family), recipe.evolution.generations
    folders = {finished_folder(name, generations, Path(recipe.output)) for name in recipe.finish.export}
    exports = model * sum(not folder.exists() for folder in folders)
    uses.append(DiskUse("exported models", recipe.output, exports))
    if recipe.hub is not None and (recipe.hub.root or recipe.hub.elites):
        uses.append(DiskUse("a model while it is pushed", recipe.output, model))  # one at a time
    return uses


def _exported_bytes(recipe: Recipe, family: ModelFamily) -> int:
    """Bytes of one exported model: mergekit writes its own merges in float32."""
    if recipe.strategy.kind != "mergekit":
        return model_bytes(family)
    return sum(prod(weight.shape) * max(weight.dtype.itemsize, FLOAT32) for weight in family.weights)


def download_uses(models: PinnedModels) -> list[DiskUse]:
    """What must be downloaded before a recipe's models can be opened.

    Raises:
        UserError: a repository is missing or cannot be read.
    """
    wanted = (pending_download(path, models.settings, label, adapter) for path, label, adapter in hub_models(models))
    return [
        DiskUse(f"download of {each.repo}", constants.HF_HUB_CACHE, each.bytes) for each in wanted if each is not None
    ]


def require_disk(uses: Sequence[DiskUse]) -> None:
    """Check that every disk has room for what will be written to it.

    Raises:
        RecipeError: a disk is too small; one line for each.
    """
    disks: dict[int, list[DiskUse]] = {}
    for use in uses:
        if use.needed:
            disks.setdefault(os.stat(existing(Path(use.folder))).st_dev, []).append(use)
    errors = [
        f"disk: {', '.join(use.purpose for use in disk)} require {decimal(sum(use.needed for use in disk))}, "
        f"{decimal(disk[0].free)} available on the disk of {disk[0].folder}; free some space"
        for disk in disks.values()
        if sum(use.needed for use in disk) > disk[0].free
    ]
    if errors:
        raise RecipeError("\n".join(errors))
