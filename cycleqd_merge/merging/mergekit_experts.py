"""Experts whose files mergekit would not read as the base's tensors: with other names, or another number of rows."""

from __future__ import annotations

import torch
from mergekit.common import ModelReference
from mergekit.io import LazyTensorLoader, ShardedTensorIndex

from cycleqd_merge.merging.adapter import Adapter, LowRank
from cycleqd_merge.merging.adapter_checks import stock_merges
from cycleqd_merge.merging.checkpoint import Checkpoint
from cycleqd_merge.merging.family import ModelFamily, fit_vocabulary


class ExpertLoader(LazyTensorLoader):
    """mergekit's loader for an expert, with the base's tensor names and shapes."""

    def __init__(self, family: ModelFamily, expert: Checkpoint) -> None:
        self._family, self._expert = family, expert
        self._weights = {weight.name: weight for weight in family.weights}
        super().__init__(ShardedTensorIndex(str(expert.path), True, dict.fromkeys(self._weights, ""), []))

    def get_tensor(
        self, key: str, device: str = "cpu", aliases: list[str] | None = None, raise_on_missing: bool = True
    ) -> torch.Tensor | None:
        name = next((name for name in (key, *(aliases or ())) if name in self._weights), None)
        stored = None if name is None else self._expert.stored_name(self._weights[name])
        if name is None or stored is None:
            if raise_on_missing:
                raise KeyError(key)
            return None
        weight = self._weights[name]
        tensor = self._expert.read(stored)
        return fit_vocabulary(tensor, weight, self._family.base_tensor(weight), self._family).to(device)


class AdapterLoader(LazyTensorLoader):
    """mergekit's loader for an adapter, merged into the base in float32 one tensor at a time."""

    def __init__(self, family: ModelFamily, number: int) -> None:
        self._family, self._number = family, number
        self._weights = {weight.name: weight for weight in family.weights}
        super().__init__(ShardedTensorIndex(str(family.base.path), True, dict.fromkeys(self._weights, ""), []))

    def get_tensor(
        self, key: str, device: str = "cpu", aliases: list[str] | None = None, raise_on_missing: bool = True
    ) -> torch.Tensor | None:
        name = next((name for name in (key, *(aliases or ())) if name in self._weights), None)
        if name is None:
            if raise_on_missing:
                raise KeyError(key)
            return None
        base = self._family.base_tensor(self._weights[name])
        vector = self._family.task_vector(self._number, self._weights[name], base)
        if vector is None:
            return base.to(device)
        return (vector.dense() if isinstance(vector, LowRank) else vector).add_(base.float()).to(device)


def expert_loaders(family: ModelFamily) -> dict[ModelReference, LazyTensorLoader]:
    """Loaders for the experts that mergekit's own loader would read wrongly."""
    adapters: dict[ModelReference, LazyTensorLoader] = {
        ModelReference.parse(family.copy_of(str(expert.reference))): AdapterLoader(family, number)
        for number, expert in enumerate(family.experts)
        if family.has_copies and isinstance(expert.weights, Adapter)
    }
    return adapters | {
        ModelReference.parse(family.copy_of(str(expert.reference))): ExpertLoader(family, expert.weights)
        for expert in family.experts
        if isinstance(expert.weights, Checkpoint) and not _plain(family, expert.weights)
    }


def stock_reads(family: ModelFamily) -> bool:
    """Whether stock mergekit, in a process of its own, reads the same models as transformers does."""
    models = [family.base, *(each.weights for each in family.experts if isinstance(each.weights, Checkpoint))]
    merged = all(stock_merges(family, each.weights) for each in family.experts if isinstance(each.weights, Adapter))
    return all(model.stock_reads for model in models) and not expert_loaders(family) and merged


def _plain(family: ModelFamily, expert: Checkpoint) -> bool:
    """Whether an expert's tensors have the base's names and, after `vocabulary: base` dropped rows, its shapes."""
    for weight in family.weights:
        stored, axis = expert.stored_name(weight), weight.vocabulary_axis
        if stored not in (weight.name, *weight.aliases, *weight.ties):
            return False
        if axis is not None:
            rows, wanted = expert.read(stored).shape[axis], weight.shape[axis]
            if rows < wanted or (rows > wanted and family.models.vocabulary != "base"):
                return False
    return True
