"""What a fit learns from: prompts with answers as token ids, and the experts' own predictions of each answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Example:
    """One conversation, or one prompt with its continuation.

    tokens: ids of the whole text as the engine saw it. trained: places of the tokens to predict, ascending, all above
    0. weight: of the example among those of its task, above 0.
    """

    tokens: tuple[int, ...]
    trained: tuple[int, ...]
    weight: float = 1.0


@dataclass(frozen=True)
class Batch:
    """Examples side by side, padded on the left, so that the answers end at the same place.

    ids, mask, positions: shape (examples, width). rows, columns: of the tokens to predict, shape (tokens,); the logits
    that predict one are at the column before. targets: their ids. weights: of each token, which sum to 1 over the batch
    if its examples are the whole batch.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor

    @property
    def kept(self) -> int:
        """How many of the last columns have the logits that predict every token."""
        return int(self.ids.shape[1] - self.columns.min()) + 1


def batch_of(examples: Sequence[Example], total: float, pad: int, device: torch.device | str = "cpu") -> Batch:
    """A batch. total: the sum of the weights of all examples of the step, on all processes. pad: id of the padding."""
    width = max(len(example.tokens) for example in examples)
    ids = torch.full((len(examples), width), pad)
    mask = torch.zeros_like(ids)
    rows, columns, weights = list[int](), list[int](), list[float]()
    for row, example in enumerate(examples):
        start = width - len(example.tokens)
        ids[row, start:] = torch.tensor(example.tokens)
        mask[row, start:] = 1
        rows += [row] * len(example.trained)
        columns += [start + place for place in example.trained]
        weights += [example.weight / total / len(example.trained)] * len(example.trained)
    places = torch.tensor(rows), torch.tensor(columns)
    parts = ids, mask, (mask.cumsum(1) - 1).clamp_min(0), *places, ids[places], torch.tensor(weights)
    return Batch(*(part.to(device) for part in parts))
