"""Stored tensors that transformers neither loads nor saves: buffers of older versions, parts of no language model."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import SimpleNamespace

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

log = logging.getLogger(__name__)


def empty_model(config: PretrainedConfig, trust_remote_code: bool) -> PreTrainedModel | None:
    """The transformers model of a configuration without memory for its tensors; None if it cannot be built so."""
    try:
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
            return model
    except Exception as error:  # code of transformers or of the model, which may fail in any way
        log.debug("cannot build an empty model: %s", error)
        return None


def left_out(model: PreTrainedModel, tensors: Mapping[str, torch.Tensor]) -> frozenset[str]:
    """The names of those of a checkpoint's tensors that are no part of `model`, and that nobody misses.

    These are the ones that transformers skips silently, the module's own buffers, which it computes, and tensors that
    cannot be trained (integers, single numbers). Any other tensor without a place in `model` is not among them.
    """
    places = _places(model, tensors)
    unknown = {name: place for name, place in places.items() if place not in model.state_dict()}
    info = SimpleNamespace(missing_keys=set(), unexpected_keys=set(unknown.values()))
    model._adjust_missing_and_unexpected_keys(info)
    buffers = _buffers(model)
    return frozenset(
        name
        for name, place in unknown.items()
        if place not in info.unexpected_keys
        or place in buffers
        or _leaf(place) in buffers
        or not tensors[name].dtype.is_floating_point
        or tensors[name].ndim == 0
    )


def _places(model: PreTrainedModel, tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Where transformers would load each tensor."""
    transforms = get_model_conversion_mapping(model)
    renamings = [each for each in transforms if isinstance(each, WeightRenaming)]
    converters = [each for each in transforms if isinstance(each, WeightConverter)]
    known = dict.fromkeys(model.state_dict(), True)
    places = {}
    for name in tensors:
        place, _ = rename_source_key(name, renamings, converters, model.base_model_prefix, known)
        if place not in known and name in known:
            place = name
        places[name] = place
    return places


def _buffers(model: PreTrainedModel) -> set[str]:
    """The buffers that are not saved, by name, and by the last part of the name where no parameter has the same.

    A buffer may have been somewhere else in an older version.
    """
    names = {name for name, _ in model.named_buffers()} - model.state_dict().keys()
    return names | ({_leaf(name) for name in names} - {_leaf(name) for name in model.state_dict()})


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]
