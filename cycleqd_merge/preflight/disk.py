"""Disk that a run will take: singular bases in the cache, exported models beside its journal."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import constants

from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.errors import UserError
from cycleqd_merge.merging.bases import Rank, basis_folder, missing_bases
from cycleqd_merge.merging.download import hub_models, pending
from cycleqd_merge.merging.family import ModelFamily
from cycleqd_merge.merging.sizes import basis_bytes, model_bytes
from cycleqd_merge.preflight.findings import DiskUse
from cycleqd_merge.report.progress import size


def disk_uses(recipe: Recipe, family: ModelFamily, mutated: Sequence[int], rank: Rank = None) -> list[DiskUse]:
    """What a run will write; `mutated` are the experts whose bases it needs, truncated to `rank`."""
    uses = []
    for expert in mutated:
        missing = missing_bases(family, expert, rank)
        needed = sum(basis_bytes(weight, family.experts[expert], rank) for weight in missing)
        folder = basis_folder(family, expert, rank)
        uses.append(_use(f"singular bases of {family.experts[expert].name}", folder, needed))
    exports = len(recipe.finish.export) * model_bytes(family)
    return [*uses, _use("exported models", Path(recipe.output), exports)]


def download_uses(recipe: Recipe) -> list[DiskUse]:
    """What must be downloaded before a recipe's models can be opened.

    Raises:
        UserError: a repository is not there, or may not be read.
    """
    wanted = (pending(path, recipe.models, label, adapter) for path, label, adapter in hub_models(recipe))
    cache = Path(constants.HF_HUB_CACHE)
    return [_use(f"download of {each.repo}", cache, each.bytes) for each in wanted if each is not None]


def _use(purpose: str, folder: Path, needed: int) -> DiskUse:
    return DiskUse(purpose, str(folder), needed, shutil.disk_usage(existing(folder)).free)


def existing(folder: Path) -> Path:
    """The folder, or the nearest above it that exists."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())


def require_disk(uses: Sequence[DiskUse]) -> None:
    """Check that every disk holds what will be written to it.

    Raises:
        UserError: one does not; a line for each.
    """
    disks: dict[int, list[DiskUse]] = {}
    for use in uses:
        if use.needed:
            disks.setdefault(os.stat(existing(Path(use.folder))).st_dev, []).append(use)
    faults = [
        f"disk: {', '.join(use.purpose for use in disk)} need {size(sum(use.needed for use in disk))}, "
        f"{size(disk[0].free)} are free on the disk of {disk[0].folder}"
        for disk in disks.values()
        if sum(use.needed for use in disk) > disk[0].free
    ]
    if faults:
        raise UserError("\n".join(faults))
