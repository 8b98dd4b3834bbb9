"""Scales of the rows and columns of a task vector: pure functions on tensors.

    (a 1^T + 1 b^T) * tau        elementwise, with a of one value per row and b of one per column

Rows and columns are the output and input channels of a linear layer. A tensor of three dimensions is a stack of
matrices (the fused experts of a mixture), each with its own rows and columns; a convolution's channels are its first
two dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch

from cycleqd_merge.merging.adapter import LowRank
from cycleqd_merge.merging.family import TaskVector

Channels = tuple[torch.Tensor, torch.Tensor]
"""a and b of one tensor, each in a shape that broadcasts against it."""


def channel_shapes(shape: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shapes of a and b for a tensor of two or more dimensions."""
    if len(shape) == 3:
        return (shape[0], shape[1], 1), (shape[0], 1, shape[2])
    ones = (1,) * (len(shape) - 2)
    return (shape[0], 1, *ones), (1, shape[1], *ones)


def channel_count(shape: Sequence[int]) -> int:
    """The number of values of a and b together."""
    return sum(prod(each) for each in channel_shapes(shape))


def split_channels(values: torch.Tensor, shape: Sequence[int]) -> Channels:
    """a and b of a tensor from their values, a's first, shape (channel_count(shape),)."""
    rows, columns = channel_shapes(shape)
    a, b = values.split([prod(rows), prod(columns)])
    return a.reshape(rows), b.reshape(columns)


def rescaled_channels(vector: TaskVector, channels: Channels, coefficient: float | torch.Tensor) -> TaskVector:
    """(coefficient + a + b) * tau: dense or low-rank as the vector is, with twice the rank."""
    a, b = channels
    if not isinstance(vector, LowRank):
        return vector * (a + coefficient + b)
    left = torch.cat([vector.left * (a + coefficient), vector.left], dim=1)
    return LowRank(left, torch.cat([vector.right, vector.right * b]), vector.scale)
