"""Experts whose files mergekit would not read as the base's tensors: with other names, or another number of rows."""

from __future__ import annotations

import torch
from mergekit.common import ModelReference
from mergekit.io import LazyTensorLoader, ShardedTensorIndex

from cycleqd_merge.merging.adapter import Adapter, LowRank
from cycleqd_merge.merging.adapter_checks import stock_merges
from cycleqd_merge.merging.checkpoint import Checkpoint, Weight
from cycleqd_merge.merging.family import ModelFamily, fit_vocabulary


class ExpertLoader(LazyTensorLoader):  # type: ignore[misc]  # mergekit's loaders are untyped
    """mergekit's loader for an expert, with the base's tensor names and shapes; an adapter is merged in float32."""

    def __init__(self, family: ModelFamily, number: int) -> None:
        self._family, self._number = family, number
        self._weights = {weight.name: weight for weight in family.weights}
        path = family.experts[number].folder
        super().__init__(ShardedTensorIndex(str(path), True, dict.fromkeys(self._weights, ""), []))

    def get_tensor(
        self, key: str, device: str = "cpu", aliases: list[str] | None = None, raise_on_missing: bool = True
    ) -> torch.Tensor | None:
        name = next((name for name in (key, *(aliases or ())) if name in self._weights), None)
        tensor = None if name is None else self._read(self._weights[name])
        if tensor is None and raise_on_missing:
            raise KeyError(key)
        return None if tensor is None else tensor.to(device)

    def _read(self, weight: Weight) -> torch.Tensor | None:
        """The expert's tensor with the base's shape, or None if it has none."""
        base, expert = self._family.base_tensor(weight), self._family.experts[self._number].weights
        if isinstance(expert, Adapter):
            vector = self._family.task_vector(self._number, weight, base)
            dense = vector.dense() if isinstance(vector, LowRank) else vector
            return base if dense is None else dense.add_(base.float())
        stored = expert.stored_name(weight)
        return None if stored is None else fit_vocabulary(expert.read(stored), weight, base, self._family)


def expert_loaders(family: ModelFamily) -> dict[ModelReference, LazyTensorLoader]:
    """Loaders for the experts that mergekit's own loader would read wrongly."""
    return {
        family.copy_of(expert.reference): ExpertLoader(family, number)
        for number, expert in enumerate(family.experts)
        if (family.has_copies if isinstance(expert.weights, Adapter) else not _plain(family, expert.weights))
    }


def stock_problem(family: ModelFamily) -> str | None:
    """Why stock mergekit, in a process of its own, reads other models than transformers does; None if it does not."""
    named = [("base", family.base), *((f"expert {each.name}", each.weights) for each in family.experts)]
    for label, model in named:
        if isinstance(model, Checkpoint) and model.stock_problem is not None:
            return f"{label}: {model.stock_problem}"
    for expert in family.experts:
        if isinstance(expert.weights, Checkpoint) and not _plain(family, expert.weights):
            return f"expert {expert.name}: its tensors have other names than the base's, or another number of rows"
        if isinstance(expert.weights, Adapter) and not stock_merges(family, expert.weights):
            return f"expert {expert.name}: peft merges the adapter into something else than it runs"
    return None


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
