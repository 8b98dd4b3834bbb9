"""Sizes in bytes: of models, of experts as they are kept in memory, and of singular bases."""

from __future__ import annotations

from math import prod

from cycleqd_merge.merging.adapter import Adapter
from cycleqd_merge.merging.bases import Rank
from cycleqd_merge.merging.checkpoint import Weight
from cycleqd_merge.merging.family import Expert, ModelFamily

FLOAT32 = 4


def model_bytes(family: ModelFamily) -> int:
    """Bytes of all tensors of a merged model."""
    return sum(prod(weight.shape) * weight.dtype.itemsize for weight in family.weights)


def pinned_memory_bytes(family: ModelFamily) -> int:
    """Bytes of all tensors in pinned memory, where torch rounds each size up to a power of two."""
    return sum(1 << (prod(weight.shape) * weight.dtype.itemsize - 1).bit_length() for weight in family.weights)


def largest_tensor_bytes(family: ModelFamily) -> int:
    """Bytes of the largest tensor in float32."""
    return max(prod(weight.shape) for weight in family.weights) * FLOAT32


def basis_bytes(weight: Weight, expert: Expert, rank: Rank = None) -> int:
    """Maximum bytes of one stored basis: the smaller side's singular vectors and the values, float32."""
    return (min(weight.shape[0], prod(weight.shape[1:])) + 1) * directions(weight, expert, rank) * FLOAT32


def directions(weight: Weight, expert: Expert, rank: Rank = None) -> int:
    """Maximum number of singular directions kept of an expert's task vector at one matrix."""
    full = min(weight.shape[0], prod(weight.shape[1:]))
    full = min(full, rank) if isinstance(rank, int) else full
    if not isinstance(expert.weights, Adapter):
        return full
    name = _changed(weight, expert.weights)
    if name is None:
        return 0
    own = expert.weights.rank_of(name)
    return full if own is None else min(full, own)


def _changed(weight: Weight, adapter: Adapter) -> str | None:
    """The name under which an adapter changes a tensor; None if it does not."""
    return next((name for name in (weight.name, *weight.aliases) if name in adapter.names), None)


def expert_bytes(family: ModelFamily, expert: Expert) -> int:
    """Bytes of an expert as it is kept between children: a full model's tensors, or an adapter's factors and dense
    changes in float32.
    """
    if not isinstance(expert.weights, Adapter):
        return model_bytes(family)
    return sum(_change_bytes(weight, expert.weights) for weight in family.weights)


def _change_bytes(weight: Weight, adapter: Adapter) -> int:
    name = _changed(weight, adapter)
    if name is None:
        return 0
    rank = adapter.rank_of(name)
    return (prod(weight.shape) if rank is None else (weight.shape[0] + prod(weight.shape[1:])) * rank) * FLOAT32
