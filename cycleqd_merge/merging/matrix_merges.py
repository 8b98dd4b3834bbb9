"""Merges of task vectors matrix by matrix: pure functions on the experts' task vectors of one tensor.

    tsv:          task singular vectors, made orthogonal between tasks (Gargiulo et al., 2025, arXiv:2412.00081)
    iso_c:        the sum with an isotropic spectrum (Marczak et al., 2025, arXiv:2502.04959)
    wudi:         least interference with every expert, by Adam (Cheng et al., 2025, arXiv:2503.08099)
    swudi:        the same objective in closed form (Wei et al., 2026, arXiv:2606.07289)
    sign_aligned: each task vector's entries that have the elected sign (TIES; Yadav et al., 2023, arXiv:2306.01708)

A matrix is output x input, as in `torch.nn.Linear`. Task vectors and results are float32; decompositions are those of
Gram matrices in float64, as for singular bases. Singular directions below `FLOOR` of the strongest are rounding: a
low-rank expert that was merged into a checkpoint has hundreds of them, with arbitrary vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import ceil

import torch

from cycleqd_merge.merging.adapter import LowRank

FLOOR = 1e-5
"""Share of the largest singular value below which a direction is rounding."""

Vectors = Sequence[torch.Tensor]
"""The experts' task vectors of one matrix, all of one shape, float32."""


def tsv(vectors: Vectors, rank: int) -> torch.Tensor:
    """U diag(s) V^T, where U and V are the nearest matrices with orthonormal columns to the experts' leading left and
    right singular vectors side by side.

    rank: singular directions of each expert; the paper's is min(rows, columns) // experts.
    """
    parts = [_leading(vector.double(), rank) for vector in vectors]
    left, values, right = (torch.cat(part, dim=-1) for part in zip(*parts, strict=True))
    return ((_nearest(left) * values) @ _nearest(right).T).float()


def iso_c(vectors: Vectors) -> torch.Tensor:
    """The sum of the task vectors with every singular value replaced by their mean."""
    total = torch.stack([vector.double() for vector in vectors]).sum(0)
    left, values, right = _leading(total, min(total.shape))
    return ((left * values.mean()) @ right.T).float() if len(values) else total.float()


def wudi(vectors: Vectors, steps: int, learning_rate: float) -> torch.Tensor:
    """Adam on sum_i |(x - tau_i) tau_i^T|^2 / |tau_i|^2, from the sum of the task vectors.

    The paper takes 300 steps with a learning rate of 1e-5.
    """
    interference, wanted = _normal_equations(vectors)
    merged = torch.stack(list(vectors)).sum(0)
    optimiser = torch.optim.Adam([merged], lr=learning_rate)
    inputs, goal = interference.float(), wanted.float()
    for _ in range(steps):
        merged.grad = 2 * (merged @ inputs - goal)
        optimiser.step()
    return merged


def swudi(vectors: Vectors, time: float, rank: int) -> torch.Tensor:
    """The gradient flow of half of `wudi`'s objective for this time, in the leading input directions.

    From the sum x_0 of the task vectors it leads to x_0 + (D V diag(1 / l) - x_0 V) diag(f) V^T, with
    C = sum_i tau_i^T tau_i / |tau_i|^2 = V diag(l) V^T and D = sum_i tau_i tau_i^T tau_i / |tau_i|^2;
    f = 1 - exp(-l * time) in the `rank` leading directions, 0 in the others.
    """
    interference, wanted = _normal_equations(vectors)
    start = torch.stack([vector.double() for vector in vectors]).sum(0)
    values, directions = torch.linalg.eigh(interference)
    directions = directions[:, -rank:]
    values = values[-rank:].clamp_min(torch.finfo(torch.float32).tiny)
    share = -torch.expm1(-values * time)
    change = wanted @ directions * (share / values) - start @ directions * share
    return (start + change @ directions.T).float()


def sign_aligned(vectors: Vectors) -> list[torch.Tensor]:
    """Each task vector with the entries whose sign is not that of the sum set to 0; a sum of 0 elects plus."""
    elected = torch.where(torch.stack(list(vectors)).sum(0) >= 0, 1.0, -1.0)
    return [torch.where(vector * elected > 0, vector, torch.zeros_like(vector)) for vector in vectors]


def low_rank(vectors: Sequence[LowRank], merge: Callable[[Vectors], torch.Tensor]) -> LowRank:
    """The merge of low-rank task vectors, without their full matrices.

    merge: a function that orthogonal changes of rows and columns commute with: `tsv`, `iso_c` and `swudi`, but not
    `wudi`, whose Adam steps are per entry.
    """
    left, _ = torch.linalg.qr(torch.cat([vector.left for vector in vectors], dim=1).double())
    right, _ = torch.linalg.qr(torch.cat([vector.right for vector in vectors]).double().T)
    cores = [
        ((left.T @ vector.left.double()) @ (vector.right.double() @ right) * vector.scale).float() for vector in vectors
    ]
    return LowRank((left @ merge(cores).double()).float(), right.T.float().contiguous(), 1.0)


def by_matrix(vectors: Vectors, merge: Callable[[Vectors], torch.Tensor]) -> torch.Tensor:
    """The merge of matrices, or of stacks of matrices of three dimensions (packed experts); others are averaged, as the
    papers do for biases and norms.
    """
    first = vectors[0]
    if first.ndim == 2:
        return merge(vectors)
    if first.ndim == 3:
        return torch.stack([merge(matrices) for matrices in zip(*vectors, strict=True)])
    return torch.stack(list(vectors)).mean(0)


def tsv_merge(experts: int, shape: Sequence[int]) -> Callable[[Vectors], torch.Tensor]:
    """`tsv` with the paper's rank for matrices of this shape."""
    return partial(tsv, rank=max(1, min(shape[-2:]) // experts))


def swudi_merge(time: float, share: float, shape: Sequence[int]) -> Callable[[Vectors], torch.Tensor]:
    """`swudi` in a share of the input directions of matrices of this shape."""
    return partial(swudi, time=time, rank=max(1, ceil(share * shape[-1])))


def _leading(matrix: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """At most `rank` singular directions above `FLOOR`: left (m, r), values (r,) descending, right (n, r); float64."""
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    squares, vectors = torch.linalg.eigh(tall.T @ tall)
    values = squares.flip(0).clamp_min(0).sqrt()[:rank]
    kept = int((values > FLOOR * values[0]).sum())
    values, right = values[:kept], vectors.flip(1)[:, :kept]
    left = tall @ right / values
    return (left, values, right) if tall is matrix else (right, values, left)


def _nearest(columns: torch.Tensor) -> torch.Tensor:
    """The orthogonal Procrustes solution P Q^T of columns = P diag(d) Q^T; directions with d = 0 are left out."""
    squares, vectors = torch.linalg.eigh(columns.T @ columns)
    kept = squares > FLOOR**2 * len(squares)
    inverse = torch.where(kept, squares, torch.inf).rsqrt()
    return columns @ (vectors * inverse) @ vectors.T


def _normal_equations(vectors: Vectors) -> tuple[torch.Tensor, torch.Tensor]:
    """sum_i tau_i^T tau_i / |tau_i|^2 and sum_i tau_i tau_i^T tau_i / |tau_i|^2, float64.

    Experts that equal the base add nothing.
    """
    columns = vectors[0].shape[1]
    interference = torch.zeros(columns, columns, dtype=torch.float64, device=vectors[0].device)
    wanted = torch.zeros_like(vectors[0], dtype=torch.float64)
    for vector in vectors:
        tau = vector.double()
        norm = tau.square().sum()
        if norm > 0:
            gram = tau.T @ tau / norm
            interference += gram
            wanted += tau @ gram
    return interference, wanted
