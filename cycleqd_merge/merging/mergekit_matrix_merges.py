"""The merges of `matrix_merges` as mergekit methods; importing this module registers them with mergekit.

For all: merged = base + scale * merge of the task vectors. Embeddings and output heads (tensors with a row per token)
and all tensors that are not matrices get the mean of the task vectors, as in the papers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from mergekit.merge_methods import InputContract, PerNonBase, TensorGroup, merge_method, register
from mergekit.merge_methods.base import BasePolicy

from cycleqd_merge.merging import matrix_merges
from cycleqd_merge.merging.matrix_merges import Vectors


def _tsv_m(group: TensorGroup, scale: float = 1.0) -> torch.Tensor:
    """TSV-Merge."""
    shape = group.base.tensor.shape
    return _merged(group, scale, matrix_merges.tsv_merge(len(group.non_base), shape) if len(shape) > 1 else None)


def _iso_c(group: TensorGroup, scale: float = 1.0) -> torch.Tensor:
    """Iso-C."""
    return _merged(group, scale, matrix_merges.iso_c)


def _wudi(group: TensorGroup, scale: float = 1.0, steps: int = 300, learning_rate: float = 1e-5) -> torch.Tensor:
    """WUDI-Merging. Its matrices are output x input; those of GPT-2's Conv1D are not."""
    return _merged(group, scale, partial(matrix_merges.wudi, steps=steps, learning_rate=learning_rate))


def _swudi(group: TensorGroup, scale: float = 1.0, time: float = 300.0, share: float = 0.85) -> torch.Tensor:
    """SWUDI. share: of the input directions. Its matrices are those of `wudi`."""
    shape = group.base.tensor.shape
    return _merged(group, scale, matrix_merges.swudi_merge(time, share, shape) if len(shape) > 1 else None)


def _sign_aligned(group: TensorGroup, weight: PerNonBase[float], scale: float = 1.0) -> torch.Tensor:
    """base + scale * sum_i weight_i (the entries of expert i's task vector that have the elected sign).

    Signs are elected by the plain sum, whatever the weights are: a weight of 1 for one expert and 0 for the others is
    that expert's part.
    """
    base = group.base.tensor
    if not group.non_base:
        return base
    parts = matrix_merges.sign_aligned(_task_vectors(group))
    weighted = [part * weight[entry.id] for part, entry in zip(parts, group.non_base, strict=True)]
    return base + scale * torch.stack(weighted).sum(0)


def _merged(group: TensorGroup, scale: float, merge: Callable[[Vectors], torch.Tensor] | None) -> torch.Tensor:
    """base + scale * merge(task vectors). merge: of matrices; None if the tensor has none."""
    base = group.base.tensor
    if not group.non_base:
        return base
    vectors = _task_vectors(group)
    if merge is None or group.metadata.vocabulary_axis is not None:
        return base + scale * torch.stack(vectors).mean(0)
    return base + scale * matrix_merges.by_matrix(vectors, merge)


def _task_vectors(group: TensorGroup) -> list[torch.Tensor]:
    return [entry.tensor - group.base.tensor for entry in group.non_base]


_METHODS = {
    "tsv_m": (_tsv_m, "TSV-Merge", "https://arxiv.org/abs/2412.00081"),
    "iso_c": (_iso_c, "Iso-C", "https://arxiv.org/abs/2502.04959"),
    "wudi": (_wudi, "WUDI-Merging", "https://arxiv.org/abs/2503.08099"),
    "swudi": (_swudi, "SWUDI", "https://arxiv.org/abs/2606.07289"),
    "sign_aligned": (_sign_aligned, "Sign-aligned sum", "https://arxiv.org/abs/2306.01708"),
}
MATRIX_MERGES = tuple(_METHODS)
"""The names of the methods."""
for _name, (_function, _title, _source) in _METHODS.items():
    register(
        merge_method(
            _function,
            name=_name,
            pretty_name=_title,
            reference_url=_source,
            contract=InputContract(base=BasePolicy.REQUIRED),
        )
    )
