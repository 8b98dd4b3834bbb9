"""Singular directions of task vectors: pure functions on tensors.

For tau = U diag(s) V^T, a mutation adds U diag(m s) V^T = tau V diag(m) V^T = U diag(m) U^T tau. Only the singular
vectors of the smaller side need to be kept, and their signs do not matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from cycleqd_merge.merging.adapter import LowRank
from cycleqd_merge.merging.family import TaskVector


@dataclass(frozen=True)
class Basis:
    """Singular vectors of one task vector, by descending singular value.

    vectors: (n, r) right singular vectors for side `right`, (m, r) left ones for side `left`; float32.
    values: (r,) singular values, float32.
    """

    vectors: torch.Tensor
    values: torch.Tensor
    side: Literal["left", "right"]

    @property
    def rank(self) -> int:
        """Number of singular directions, r."""
        return int(self.values.shape[0])


def as_matrix(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of two or more dimensions flattened to output x rest."""
    return tensor.reshape(tensor.shape[0], -1)


def as_dense(vector: TaskVector) -> torch.Tensor:
    """A task vector as a matrix."""
    return vector.dense() if isinstance(vector, LowRank) else as_matrix(vector)


def singular_basis(vector: TaskVector) -> Basis:
    """The basis of a task vector: min(m, n) directions of a dense one, r of a low-rank one.

    Dense task vectors go through an eigendecomposition of the float64 Gram matrix of the smaller side, low-rank ones
    through QR of their factors.
    """
    if isinstance(vector, LowRank):
        return _low_rank_basis(vector)
    tau = as_matrix(vector)
    side: Literal["left", "right"] = "right" if tau.shape[0] >= tau.shape[1] else "left"
    wide = tau.double() if side == "right" else tau.double().T
    eigenvalues, vectors = torch.linalg.eigh(wide.T @ wide)
    values = eigenvalues.flip(0).clamp_min(0).sqrt()
    return Basis(vectors.flip(1).float().contiguous(), values.float(), side)


def _low_rank_basis(vector: LowRank) -> Basis:
    left, left_r = torch.linalg.qr(vector.left.double())
    right, right_r = torch.linalg.qr(vector.right.double().T)
    u, values, vh = torch.linalg.svd(left_r @ right_r.T * vector.scale)
    side: Literal["left", "right"] = "right" if left.shape[0] >= right.shape[0] else "left"
    vectors = right @ vh.T if side == "right" else left @ u
    return Basis(vectors.float().contiguous(), values.float(), side)


def truncated(basis: Basis, rank: int | float | None) -> Basis:
    """The basis's leading directions: `rank` of them, the fewest that hold the share `rank` (a float below 1) of the
    squared norm, or all (None).
    """
    if rank is None:
        return basis
    if isinstance(rank, float):
        energy = basis.values.double().square().cumsum(0)
        rank = int((energy < rank * energy[-1]).sum()) + 1
    return Basis(basis.vectors[:, :rank].contiguous(), basis.values[:rank].contiguous(), basis.side)


def skew(basis: Basis) -> float:
    """The largest deviation of an element of V^T V from the identity, caused by the stored precision."""
    vectors = basis.vectors
    gram = vectors.T @ vectors
    return float((gram - torch.eye(gram.shape[0], device=gram.device)).abs().max()) if gram.numel() else 0.0


def similarity(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> float:
    """Model similarity of two experts, as the paper measures it: the mean over matrices of the cosine between the
    vectors of their task vectors' singular values. In [0, 1].

    first, second: singular values by tensor name, descending; the shorter vector is padded with zeros, and a matrix in
    which only one of the two differs from the base counts as 0.
    """
    names = first.keys() | second.keys()
    cosines = []
    for name in names:
        one, other = first.get(name), second.get(name)
        if one is None or other is None or not one.any() or not other.any():
            cosines.append(0.0)
            continue
        size = min(len(one), len(other))
        product = one[:size].double() @ other[:size].double()
        cosines.append(float(product / (one.double().norm() * other.double().norm())))
    return sum(cosines) / len(cosines) if cosines else 0.0


def rescaled(vector: TaskVector, basis: Basis, weights: torch.Tensor) -> TaskVector:
    """U diag(weights * s) V^T of the task vector, shape (m, n), float32: dense or low-rank as the vector is.

    weights: (r,) float32. On a GPU, dense products take bfloat16 inputs and accumulate in float32: the rounding error
    is 0.4% of a mutation, less than the bfloat16 rounding of the weights that it is added to.
    """
    scaled = basis.vectors * weights
    if isinstance(vector, LowRank):
        if basis.side == "right":
            return LowRank(vector.left, (vector.right @ scaled) @ basis.vectors.T, vector.scale)
        return LowRank(scaled @ (basis.vectors.T @ vector.left), vector.right, vector.scale)
    tau = as_matrix(vector)
    if basis.side == "right":
        return _product(_product(tau, scaled), basis.vectors.T)
    return _product(scaled, _product(basis.vectors.T, tau))


def strengthened(
    vector: LowRank, basis: Basis | None, weights: torch.Tensor | None, coefficient: float | torch.Tensor
) -> LowRank:
    """coefficient * tau + U diag(weights * s) V^T of a low-rank task vector, as factors of the same rank.

    weights: (r,) float32, or None if there is no second term.
    """
    if basis is None or weights is None:
        return LowRank(vector.left, vector.right * coefficient, vector.scale)
    change = rescaled(vector, basis, weights)
    assert isinstance(change, LowRank)
    if basis.side == "right":
        return LowRank(vector.left, vector.right * coefficient + change.right, vector.scale)
    return LowRank(vector.left * coefficient + change.left, vector.right, vector.scale)


def joined(vectors: Sequence[LowRank]) -> LowRank:
    """The sum of low-rank matrices as one: a single product instead of one for each."""
    left = torch.cat([vector.left * vector.scale for vector in vectors], dim=1)
    return LowRank(left, torch.cat([vector.right for vector in vectors]), 1.0)


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a @ b in float32; on CUDA from bfloat16 inputs."""
    if a.device.type != "cuda":
        return a @ b
    return torch.mm(a.to(torch.bfloat16), b.to(torch.bfloat16), out_dtype=torch.float32)
