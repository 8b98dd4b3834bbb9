"""Gradients of a fit's values are those of autograd and of finite differences, through the formula written out."""

from __future__ import annotations

import pytest
import torch

from cycleqd_merge.fitting.gradients import channel_gradient, coefficient_gradient, scale_gradient
from cycleqd_merge.merging.adapter import LowRank
from cycleqd_merge.merging.singular import Basis, as_matrix, singular_basis

MATRICES = [(6, 4), (4, 6), (5, 5)]
CASES = [*((shape, False) for shape in (*MATRICES, (3, 2, 4))), *((shape, True) for shape in MATRICES)]
"""Shapes, and whether the task vector is low-rank: adapters change matrices alone."""


def case(shape: tuple[int, ...], low_rank: bool) -> tuple[torch.Tensor | LowRank, torch.Tensor, Basis]:
    """A task vector, the same multiplied out, and its singular basis, in float64."""
    draw = torch.Generator().manual_seed(len(shape) * 10 + shape[0])
    rows, columns = shape[0], int(torch.tensor(shape[1:]).prod())
    if low_rank:
        vector: torch.Tensor | LowRank = LowRank(
            torch.randn(rows, 2, generator=draw, dtype=torch.float64),
            torch.randn(2, columns, generator=draw, dtype=torch.float64),
            1.5,
        )
        dense = 1.5 * vector.left @ vector.right  # type: ignore[union-attr]
    else:
        vector = dense = torch.randn(shape, generator=draw, dtype=torch.float64)
    found = singular_basis(vector)
    exact = torch.linalg.svd(as_matrix(dense))
    rank = found.rank
    vectors = exact.Vh.T[:, :rank] if found.side == "right" else exact.U[:, :rank]
    return vector, dense.reshape(shape), Basis(vectors, exact.S[:rank], found.side)


def loss_of(tensor: torch.Tensor) -> torch.Tensor:
    """Any smooth function of a tensor."""
    places = torch.arange(tensor.numel()).reshape(tensor.shape)
    return torch.sin(tensor * places).sum() + tensor.square().sum()


@pytest.mark.parametrize(("shape", "low_rank"), CASES, ids=str)
def test_they_equal_autograd_and_finite_differences(shape: tuple[int, ...], low_rank: bool) -> None:
    vector, dense, basis = case(shape, low_rank)
    svd = torch.linalg.svd(as_matrix(dense), full_matrices=False)
    rank = basis.rank

    def tensor(c: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
        scaled = (svd.U[:, :rank] * (m * svd.S[:rank])) @ svd.Vh[:rank]
        return 0.3 + c * dense + scaled.reshape(shape)

    c = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    m = torch.linspace(-0.5, 0.5, rank, dtype=torch.float64).requires_grad_(True)
    made = tensor(c, m)
    made.retain_grad()
    torch.autograd.backward(loss_of(made))
    assert made.grad is not None
    assert c.grad is not None
    assert m.grad is not None
    found = coefficient_gradient(made.grad, vector), scale_gradient(made.grad, vector, basis)
    assert torch.allclose(found[0], c.grad, rtol=1e-10, atol=1e-10)
    assert torch.allclose(found[1], m.grad, rtol=1e-10, atol=1e-10)
    step = 1e-6
    with torch.no_grad():
        slope = (loss_of(tensor(c + step, m)) - loss_of(tensor(c - step, m))) / (2 * step)
        assert found[0].item() == pytest.approx(slope.item(), rel=1e-6)
        for j in range(rank):
            nudge = torch.zeros(rank, dtype=torch.float64)
            nudge[j] = step
            slope = (loss_of(tensor(c, m + nudge)) - loss_of(tensor(c, m - nudge))) / (2 * step)
            assert found[1][j].item() == pytest.approx(slope.item(), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(("shape", "low_rank"), [*CASES, ((4, 3, 2, 2), False)], ids=str)
def test_those_of_channels_equal_autograd(shape: tuple[int, ...], low_rank: bool) -> None:
    vector, dense, _ = case(shape, low_rank)
    rows, columns = {
        2: ("ij,i->ij", "ij,j->ij"),
        3: ("ijk,ij->ijk", "ijk,ik->ijk"),
        4: ("ijkl,i->ijkl", "ijkl,j->ijkl"),
    }[len(shape)]
    sizes = {2: (shape[:1], shape[1:]), 3: (shape[:2], (shape[0], shape[-1])), 4: (shape[:1], shape[1:2])}[len(shape)]
    a, b = (torch.zeros(size, dtype=torch.float64, requires_grad=True) for size in sizes)
    made = 0.3 + 0.7 * dense + torch.einsum(rows, dense, a) + torch.einsum(columns, dense, b)
    made.retain_grad()
    torch.autograd.backward(loss_of(made))
    assert made.grad is not None
    assert a.grad is not None
    assert b.grad is not None
    wanted = torch.cat([a.grad.flatten(), b.grad.flatten()])
    assert torch.allclose(channel_gradient(made.grad, vector), wanted, rtol=1e-10, atol=1e-10)
