"""Passes over batches: those of one shape use the same memory, so that the pass of each shape can be recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch

from cycleqd_merge.fitting.examples import Batch
from cycleqd_merge.fitting.fitted_model import FittedModel
from cycleqd_merge.fitting.objective import Predictions
from cycleqd_merge.fitting.recorded import Recorded

Loss = Callable[[Any, Batch, Predictions | None], torch.Tensor]
"""Of a model, for a batch and what an expert predicts."""


@dataclass(frozen=True)
class _Pass:
    """Inputs at a fixed place, and where the pass over them is recorded."""

    batch: Batch
    expert: Predictions | None
    recorded: Recorded

    def fill(self, batch: Batch, expert: Predictions | None) -> None:
        """Replace the inputs by others of the same shape."""
        for place, tensor in zip(_tensors(self.batch, self.expert), _tensors(batch, expert), strict=True):
            place.copy_(tensor)


class Passes:
    """Forward and backward passes of one model and loss."""

    def __init__(self, model: FittedModel, loss: Loss) -> None:
        self._model, self._loss = model, loss
        self._by_shape: dict[object, _Pass] = {}

    def gradient(self, batch: Batch, expert: Predictions | None) -> tuple[float, torch.Tensor]:
        """See `FittedModel.gradient`."""
        shape = batch.kept, *(tensor.shape for tensor in _tensors(batch, expert))
        fixed = self._by_shape.get(shape)
        if fixed is not None:
            fixed.fill(batch, expert)
        elif (recorded := self._model.recorded()) is not None:
            fixed = self._by_shape[shape] = _Pass(batch, expert, recorded)
        if fixed is None:
            return self._model.gradient(lambda model: self._loss(model, batch, expert))
        return self._model.gradient(lambda model: self._loss(model, fixed.batch, fixed.expert), fixed.recorded)


def _tensors(*inputs: Batch | Predictions | None) -> Iterator[torch.Tensor]:
    for each in inputs:
        values = [getattr(each, field.name) for field in fields(each)] if each is not None else []
        yield from (value for value in values if isinstance(value, torch.Tensor))
