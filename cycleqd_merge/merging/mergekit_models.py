"""How mergekit opens models: as transformers does. Importing this module teaches mergekit so in this process.

Stock mergekit prefers an index to a single file, and cannot read a configuration without `architectures`.
"""

from __future__ import annotations

from pathlib import Path

from mergekit.common import ModelReference
from mergekit.io import ShardedTensorIndex
from mergekit.io.lazy_tensor_loader import ShardInfo
from safetensors import SafetensorError
from transformers import PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_MAPPING_NAMES

from cycleqd_merge.errors import ModelError, first_line
from cycleqd_merge.merging.file_limits import require_names
from cycleqd_merge.merging.weight_files import chosen_weights, index_file, weight_files, weight_map

_stock_config = ModelReference.config


def tensor_index(folder: str) -> ShardedTensorIndex:
    """The tensors that transformers loads from a folder: all those in its files, in the order of their index.

    Raises:
        ModelError: a shard is damaged, or a tensor is in two shards.
        OSError, ValueError, LookupError, TypeError, SafetensorError: a file is missing or damaged.
    """
    path = Path(folder)
    chosen = chosen_weights({file.name for file in path.iterdir()})
    if chosen is None or not chosen.endswith(index_file("")):
        index = ShardedTensorIndex.from_file(str(path / weight_files(path)[0]))
        require_names(index.tensor_paths)
        return index
    listed, found, shards = weight_map(path / chosen), dict[str, str](), list[ShardInfo]()
    for name in weight_files(path):
        try:
            keys = list(ShardedTensorIndex.from_file(str(path / name)).tensor_paths)
        except SafetensorError as error:
            raise ModelError(f"{path / name}: damaged or truncated: {first_line(error)}") from error
        twice = next((key for key in keys if key in found), None)
        if twice is not None:
            raise ModelError(f"{path}: tensor {twice} is in both {found[twice]} and {name}; remove the outdated file")
        found |= dict.fromkeys(keys, name)
        require_names(found)
        shards.append(ShardInfo(name, keys))
    order = [key for key in listed if key in found]
    paths = {key: found[key] for key in dict.fromkeys((*order, *found))}
    return ShardedTensorIndex(folder, chosen.startswith("model."), paths, shards)


def model_config(reference: ModelReference, trust_remote_code: bool = False) -> PretrainedConfig:
    """A model's configuration; its `architectures` names the class that `AutoModelForCausalLM` would load."""
    config = _stock_config(reference, trust_remote_code)
    config.architectures = architectures(config)
    return config


def architectures(config: PretrainedConfig) -> list[str] | None:
    """The `architectures` of a configuration, with a missing one and a model without its head completed."""
    stated = config.architectures or []
    if not isinstance(stated, list) or not all(isinstance(each, str) for each in stated):
        raise TypeError("config.json: architectures is not a list of names")
    custom = (getattr(config, "auto_map", None) or {}).get("AutoModelForCausalLM")
    if custom is not None:
        return stated or [custom.rpartition(".")[2]]
    whole = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    if whole is not None and stated in ([], [MODEL_MAPPING_NAMES.get(config.model_type)]):
        return [whole]
    return config.architectures


ShardedTensorIndex.from_disk = staticmethod(tensor_index)
ModelReference.config = model_config
