"""LoRA adapters for mergekit: merged into their base once, in float32, and cached.

mergekit merges an adapter by peft, which cannot merge every adapter as it runs it: factors on tied embeddings are added
twice, and a resized vocabulary is an error. mergekit's own cache names folders by the models' paths alone, and uses a
folder that an interrupted merge left incomplete. Here the name is derived from the contents, and a folder appears only
once it is complete.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from mergekit.common import ModelReference
from mergekit.config import MergeConfiguration
from safetensors.torch import save_file

from cycleqd_merge.cache import cache_folder
from cycleqd_merge.config.recipe import ModelsConfig, PinnedModels
from cycleqd_merge.merging.adapter import LowRank
from cycleqd_merge.merging.adapter_checks import require_adapter
from cycleqd_merge.merging.cached_folders import cached_folder
from cycleqd_merge.merging.checkpoint import Weight
from cycleqd_merge.merging.family import ModelFamily, open_family

MERGE_DTYPE = "float32"
_METHOD = "adapter/2"
_CONFIGURATIONS = ("config.json", "generation_config.json")


@contextmanager
def merged_adapters(
    config: MergeConfiguration, models: ModelsConfig, others: Collection[ModelReference] = ()
) -> Iterator[str]:
    """A folder for mergekit's `lora_merge_cache`, with every adapter of `config` merged into its base.

    models: how they are opened. others: adapters that mergekit does not read from there.

    Raises:
        ModelError: a base or an adapter cannot be opened, or cannot be merged as peft runs it.
        HubRefused: one cannot be downloaded.
    """
    with tempfile.TemporaryDirectory() as links:
        for reference in config.referenced_models():
            if reference.lora is not None and reference not in others:
                merged = _merged(reference, models)
                (Path(links) / merged.name).symlink_to(merged)
        yield links


def _merged(reference: ModelReference, models: ModelsConfig) -> Path:
    """The folder of base and adapter merged, under the name that mergekit looks for."""
    assert reference.lora is not None
    family = open_family(PinnedModels(str(reference.model), {"adapter": str(reference)}, models))
    key = f"{_METHOD}|{family.base.digest}|{family.experts[0].digest}|{MERGE_DTYPE}|{models.vocabulary}|{reference}"
    folder = cache_folder("lora") / hashlib.sha256(key.encode()).hexdigest()[:32]
    name = f"{reference.model._unique_id()}_{reference.lora._unique_id()}"
    return cached_folder(folder, lambda unfinished: _write(family, unfinished / name)) / name


def _write(family: ModelFamily, folder: Path) -> None:
    """Write base and adapter merged, file by file as the base is stored.

    Raises:
        ModelError: the adapter cannot be merged as peft runs it.
    """
    require_adapter(family, family.experts[0])
    folder.mkdir()
    shards: dict[str, list[Weight]] = {}
    for weight in family.weights:
        shards.setdefault(family.base.shards[family.stored_names[weight.name]], []).append(weight)
    for shard, weights in shards.items():
        tensors = {family.stored_names[weight.name]: _tensor(family, weight) for weight in weights}
        save_file(tensors, folder / shard, {"format": "pt"})
    if list(shards) != ["model.safetensors"]:
        files = {family.stored_names[weight.name]: shard for shard, weights in shards.items() for weight in weights}
        index = {"metadata": {}, "weight_map": files}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    for name in _CONFIGURATIONS:
        if (family.base.path / name).is_file():
            shutil.copy(family.base.path / name, folder)


def _tensor(family: ModelFamily, weight: Weight) -> torch.Tensor:
    """A tensor of base and adapter merged, float32; integers as they are."""
    base = family.base_tensor(weight)
    if not weight.dtype.is_floating_point:
        return base.contiguous()
    vector = family.task_vector(0, weight, base)
    if vector is None:
        return base.float().contiguous()
    return (vector.dense() if isinstance(vector, LowRank) else vector).add_(base.float()).contiguous()
