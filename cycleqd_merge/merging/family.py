"""An opened base model and its experts: the source of base tensors and task vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from mergekit.common import ModelReference
from transformers import PreTrainedModel

from cycleqd_merge.config.recipe import ModelsConfig, PinnedModels
from cycleqd_merge.errors import ModelError
from cycleqd_merge.merging.adapter import Adapter, LowRank
from cycleqd_merge.merging.checkpoint import Checkpoint, Weight, require_folder
from cycleqd_merge.merging.download import adapter_folder
from cycleqd_merge.merging.name_map import NameMap, build_name_map

TaskVector = torch.Tensor | LowRank
"""tau = expert - base of one tensor, float32: dense, or as low-rank factors."""


@dataclass(frozen=True)
class Whole:
    """An expert's own tensor, in its own dtype."""

    tensor: torch.Tensor

    def task_vector(self, base: torch.Tensor) -> torch.Tensor:
        """tensor - base in float32, with a single copy. base: float32."""
        return torch.sub(self.tensor, base).float()


@dataclass(frozen=True)
class Expert:
    """One expert: a full checkpoint, or an adapter on the base model."""

    name: str
    reference: ModelReference
    weights: Checkpoint | Adapter

    @property
    def folder(self) -> Path:
        """The folder of its files, which may include a tokenizer."""
        return self.weights.path

    @property
    def digest(self) -> str:
        """A digest of its weights."""
        return self.weights.digest


class ModelFamily:
    """Base and experts. Tensors are read on demand; none is kept in memory."""

    def __init__(self, base: Checkpoint, experts: tuple[Expert, ...], models: ModelsConfig) -> None:
        self.base, self.experts, self.models = base, experts, models

    def require_digests(self, base: str, experts: Mapping[str, str]) -> None:
        """Check that these are the models with the recorded digests.

        Raises:
            ModelError: a model has changed.
        """
        now = {"base": self.base.digest, **{f"experts.{each.name}": each.digest for each in self.experts}}
        recorded = {"base": base, **{f"experts.{name}": digest for name, digest in experts.items()}}
        changed = [
            f"{name}: {recorded.get(name)!r} -> {now.get(name)!r}"
            for name in dict.fromkeys((*recorded, *now))
            if recorded.get(name) != now.get(name)
        ]
        if changed:
            raise ModelError("the models have changed since the run began: " + "; ".join(changed))

    @property
    def weights(self) -> tuple[Weight, ...]:
        """All tensors of a merged model, in the base checkpoint's order."""
        return self.base.weights

    @cached_property
    def stored_names(self) -> Mapping[str, str]:
        """The name of each weight in the base checkpoint, which a merged model keeps."""
        return {weight.name: name for weight in self.weights if (name := self.base.stored_name(weight))}

    def name_map(self, model: PreTrainedModel) -> NameMap:
        """Where the tensors of a merged model are in `model`, by their stored names.

        Raises:
            ModelError: see `build_name_map`.
        """
        return build_name_map(model, {self.stored_names[weight.name]: weight for weight in self.weights})

    def base_tensor(self, weight: Weight) -> torch.Tensor:
        """The base's tensor in its own dtype, shape `weight.shape`."""
        return self.base.read(self.stored_names[weight.name])

    def task_vector(self, expert: int, weight: Weight, base: torch.Tensor) -> TaskVector | None:
        """tau = expert - base in float32 for one tensor, or None where the expert equals the base.

        base: the base's tensor as `base_tensor` gives it.
        """
        difference = self.difference(expert, weight, base)
        return difference.task_vector(base.float()) if isinstance(difference, Whole) else difference

    def difference(self, expert: int, weight: Weight, base: torch.Tensor) -> Whole | TaskVector | None:
        """An expert's contribution to one tensor, as stored: its own tensor, or an adapter's task vector.

        None where the expert equals the base. base: the base's tensor as `base_tensor` gives it.
        """
        if not weight.dtype.is_floating_point:
            return None
        weights = self.experts[expert].weights
        if isinstance(weights, Adapter):
            vectors = (weights.task_vector(name, base) for name in (weight.name, *weight.aliases))
            return next((vector for vector in vectors if vector is not None), None)
        stored = weights.stored_name(weight)
        if stored is None:
            return None
        tensor = fit_vocabulary(weights.read(stored), weight, self.models)
        same = torch.equal(tensor.float(), base.float()) if tensor.dtype != base.dtype else torch.equal(tensor, base)
        return None if same else Whole(tensor)


def fit_vocabulary(tensor: torch.Tensor, weight: Weight, models: ModelsConfig) -> torch.Tensor:
    """Under `vocabulary: base`, the tensor without the rows that an expert appended to the base's vocabulary."""
    axis = weight.vocabulary_axis
    if models.vocabulary == "base" and axis is not None and tensor.shape[axis] > weight.shape[axis]:
        return tensor.narrow(axis, 0, weight.shape[axis])
    return tensor


def open_family(models: PinnedModels) -> ModelFamily:
    """Open a base model and its experts.

    Raises:
        UserError: a model cannot be opened, see `open_base` and `open_expert`.
    """
    base = open_base(models)
    return ModelFamily(base, tuple(open_expert(models, name, base) for name in models.experts), models.settings)


def open_base(models: PinnedModels) -> Checkpoint:
    """Open the base model.

    Raises:
        ModelError: it cannot be opened, or is an adapter.
        HubRefused: it cannot be downloaded.
    """
    reference = ModelReference.parse(models.base)
    if reference.lora is not None:
        raise ModelError(f"base: {reference}: the base must be a full model, not an adapter")
    return Checkpoint(reference, models.settings)


def open_expert(models: PinnedModels, name: str, base: Checkpoint) -> Expert:
    """Open the expert of this name: a full model, or an adapter on `base`.

    Raises:
        ModelError: it cannot be opened, or is an adapter on a different base model.
        HubRefused: it cannot be downloaded.
    """
    reference, settings = ModelReference.parse(models.experts[name]), models.settings
    if reference.lora is None:
        return Expert(name, reference, Checkpoint(reference, settings))
    if reference.model != base.reference.model:
        raise ModelError(
            f"expert {reference}: its adapter is for {reference.model}, not for the recipe's base {base.reference}"
        )
    label = f"adapter {reference.lora}"
    require_folder(reference.lora, label)
    return Expert(name, reference, Adapter(str(reference.lora), adapter_folder(reference.lora, settings, label), base))
