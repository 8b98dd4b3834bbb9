"""The gradient of a fit's values, from the gradient of one tensor at a time: pure functions.

    tensor = base + sum_i (c_i tau_i + U_i diag(m_i s_i) V_i^T),        G = d loss / d tensor
    d loss / d c_i    = <G, tau_i>
    d loss / d m_i[j] = u_j^T G v_j s_j
    d loss / d a_i = (G * tau_i) 1,    d loss / d b_i = 1^T (G * tau_i)        if channels are scaled instead

A low-rank task vector is never multiplied out.
"""

from __future__ import annotations

import torch

from cycleqd_merge.merging.adapter import LowRank
from cycleqd_merge.merging.channels import channel_shapes
from cycleqd_merge.merging.family import TaskVector
from cycleqd_merge.merging.singular import Basis, as_matrix


def coefficient_gradient(gradient: torch.Tensor, vector: TaskVector) -> torch.Tensor:
    """d loss / d c of one expert in one tensor: a single number, in the gradient's dtype.

    gradient: of the loss by the tensor, in the tensor's shape. vector: tau, of the same dtype.
    """
    if isinstance(vector, LowRank):
        return ((vector.left.T @ as_matrix(gradient)) * vector.right).sum() * vector.scale
    return (gradient * vector).sum()


def scale_gradient(gradient: torch.Tensor, vector: TaskVector, basis: Basis) -> torch.Tensor:
    """d loss / d m of one expert in one tensor, shape (rank,), in the gradient's dtype.

    With V of the right side, U diag(m s) V^T = tau V diag(m) V^T, so that u_j s_j = tau v_j; the left side likewise.
    """
    matrix = as_matrix(gradient)
    if isinstance(vector, LowRank):
        left, right, scale = vector.left, vector.right, vector.scale
        if basis.side == "right":
            return ((left.T @ (matrix @ basis.vectors)) * (right @ basis.vectors)).sum(0) * scale
        return (((basis.vectors.T @ matrix) @ right.T) * (basis.vectors.T @ left)).sum(1) * scale
    tau = as_matrix(vector)
    if basis.side == "right":
        return ((matrix @ basis.vectors) * (tau @ basis.vectors)).sum(0)
    return ((basis.vectors.T @ matrix) * (basis.vectors.T @ tau)).sum(1)


def channel_gradient(gradient: torch.Tensor, vector: TaskVector) -> torch.Tensor:
    """d loss / d (a, b) of one expert in one tensor, shape (channel_count(shape),), in the gradient's dtype.

    gradient: of the loss by the tensor, in the tensor's shape. vector: tau, of the same dtype. A low-rank task vector
    is not multiplied out.
    """
    if isinstance(vector, LowRank):
        matrix = as_matrix(gradient)
        rows = ((matrix @ vector.right.T) * vector.left).sum(1)
        columns = ((vector.left.T @ matrix) * vector.right).sum(0)
        return torch.cat([rows, columns]) * vector.scale
    product = gradient * vector
    rows, columns = (product.sum_to_size(shape).reshape(-1) for shape in channel_shapes(vector.shape))
    return torch.cat([rows, columns])
