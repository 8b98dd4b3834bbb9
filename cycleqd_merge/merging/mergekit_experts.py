"""Experts whose files mergekit would not read as the base's tensors: with other names, or another number of rows."""

from __future__ import annotations

import torch
from mergekit.common import ModelReference
from mergekit.io import LazyTensorLoader, ShardedTensorIndex

from cycleqd_merge.merging.checkpoint import Checkpoint
from cycleqd_merge.merging.family import ModelFamily, fit_vocabulary


class ExpertLoader(LazyTensorLoader):  # type: ignore[misc] # mergekit has no type hints
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


def expert_loaders(family: ModelFamily) -> dict[ModelReference, LazyTensorLoader]:
    """Loaders for the experts that mergekit's own loader would read wrongly."""
    return {
        expert.reference: ExpertLoader(family, expert.weights)
        for expert in family.experts
        if isinstance(expert.weights, Checkpoint) and not _plain(family, expert.weights)
    }


def stock_reads(family: ModelFamily) -> bool:
    """Whether stock mergekit, in a process of its own, reads the same models as transformers does."""
    models = [family.base, *(each.weights for each in family.experts if isinstance(each.weights, Checkpoint))]
    return all(model.stock_reads for model in models) and not expert_loaders(family)


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
