"""The base model and the experts fine-tuned from it, opened: where base tensors and task vectors come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from mergekit.common import ModelReference

from cycleqd_merge.config.recipe import ModelsConfig, Recipe
from cycleqd_merge.errors import UserError
from cycleqd_merge.merging.adapter import Adapter, LowRank
from cycleqd_merge.merging.checkpoint import Checkpoint, Weight, require_folder
from cycleqd_merge.merging.download import adapter_folder

TaskVector = torch.Tensor | LowRank
"""tau = expert - base of one tensor, float32: dense, or as low-rank factors."""


@dataclass(frozen=True)
class Whole:
    """An expert's own tensor, in its own dtype."""

    tensor: torch.Tensor

    def task_vector(self, base: torch.Tensor) -> torch.Tensor:
        """tensor - base, float32 as the base is here; no other copy is made."""
        return torch.sub(self.tensor, base).float()


@dataclass(frozen=True)
class Expert:
    """One expert: a full checkpoint, or an adapter on the base model."""

    name: str
    reference: ModelReference
    weights: Checkpoint | Adapter

    @property
    def folder(self) -> Path:
        """Where its files, a tokenizer among them perhaps, lie."""
        return self.weights.path

    @property
    def digest(self) -> str:
        """A digest of its weights."""
        return self.weights.digest


class ModelFamily:
    """Base and experts. Tensors are read when asked for; nothing is kept in memory."""

    def __init__(self, base: Checkpoint, experts: tuple[Expert, ...], models: ModelsConfig) -> None:
        self.base, self.experts, self.models = base, experts, models

    @property
    def weights(self) -> tuple[Weight, ...]:
        """All tensors of a merged model, in the base checkpoint's order."""
        return self.base.weights

    @cached_property
    def _stored(self) -> Mapping[str, str]:
        return {weight.name: name for weight in self.weights if (name := self.base.stored_name(weight))}

    def base_tensor(self, weight: Weight) -> torch.Tensor:
        """The base's tensor in its own dtype, shape `weight.shape`."""
        return self.base.read(self._stored[weight.name])

    def task_vector(self, expert: int, weight: Weight, base: torch.Tensor) -> TaskVector | None:
        """tau = expert - base in float32 for one tensor, or None where the expert does not differ.

        base: the base's tensor as `base_tensor` gives it.
        """
        difference = self.difference(expert, weight, base)
        return difference.task_vector(base.float()) if isinstance(difference, Whole) else difference

    def difference(self, expert: int, weight: Weight, base: torch.Tensor) -> Whole | TaskVector | None:
        """What an expert has to say of one tensor, as it is stored: its own tensor, or an adapter's task vector.

        None where the expert does not differ. base: the base's tensor as `base_tensor` gives it.
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
    """Under `vocabulary: base`, the tensor without the rows that an expert added behind the base's vocabulary."""
    axis = weight.vocabulary_axis
    if models.vocabulary == "base" and axis is not None and tensor.shape[axis] > weight.shape[axis]:
        return tensor.narrow(axis, 0, weight.shape[axis])
    return tensor


def open_model_family(recipe: Recipe) -> ModelFamily:
    """Open base and experts of a recipe.

    Raises:
        UserError: a model cannot be opened, or an adapter is paired with another base.
    """
    base = open_base(recipe)
    experts = tuple(open_named_expert(recipe, name, base) for name in recipe.experts)
    return ModelFamily(base, experts, recipe.models)


def open_base(recipe: Recipe) -> Checkpoint:
    """The base model of a recipe.

    Raises:
        UserError: it cannot be opened, or is an adapter.
    """
    reference = ModelReference.parse(recipe.pinned(recipe.base))
    if reference.lora is not None:
        raise UserError(f"base: {recipe.base}: the base must be a full model, not an adapter")
    return open_checkpoint(reference, recipe.models)


def open_named_expert(recipe: Recipe, name: str, base: Checkpoint) -> Expert:
    """The expert that a recipe calls `name`.

    Raises:
        UserError: it cannot be opened, or is an adapter paired with another base.
    """
    reference = ModelReference.parse(recipe.pinned(recipe.experts[name]))
    return Expert(name, reference, open_expert(reference, base, recipe.models))


def open_checkpoint(reference: ModelReference, models: ModelsConfig) -> Checkpoint:
    """A full model by its reference."""
    return Checkpoint(reference, models)


def open_expert(reference: ModelReference, base: Checkpoint, models: ModelsConfig) -> Checkpoint | Adapter:
    """An expert by its reference: a full model, or an adapter on `base`.

    Raises:
        UserError: it cannot be opened, or the adapter is paired with another base.
    """
    if reference.lora is None:
        return open_checkpoint(reference, models)
    if reference.model != base.reference.model:
        raise UserError(
            f"expert {reference}: its adapter sits on {reference.model}, not on the recipe's base {base.reference}"
        )
    require_folder(reference.lora, f"adapter {reference.lora}")
    return Adapter(str(reference.lora), adapter_folder(reference.lora, models, f"adapter {reference.lora}"))
