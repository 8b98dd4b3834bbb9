"""Where the values of a fit are in one flat vector, which an optimiser steps as a whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from cycleqd_merge.merging.fits import Along, Fit


@dataclass(frozen=True)
class Layout:
    """The values of a fit: coefficients first, shape (experts, labels), then the scales of each expert.

    tensors: names of the model's tensors. labels: of each tensor, the number of the coefficient that it shares with
    others. experts: their number. along: what the scales belong to. sizes: by expert number, the number of scales of
    each tensor.
    """

    tensors: tuple[str, ...]
    labels: tuple[int, ...]
    experts: int
    along: Along
    sizes: Mapping[int, Mapping[str, int]]

    @classmethod
    def of(
        cls,
        tensors: Sequence[str],
        label: Callable[[str], str],
        experts: int,
        along: Along,
        sizes: Mapping[int, Mapping[str, int]],
    ) -> Layout:
        """The layout in which tensors of the same label share a coefficient per expert."""
        found = [label(name) for name in tensors]
        numbers = {each: number for number, each in enumerate(dict.fromkeys(found))}
        return cls(tuple(tensors), tuple(numbers[each] for each in found), experts, along, sizes)

    @cached_property
    def _label(self) -> Mapping[str, int]:
        return dict(zip(self.tensors, self.labels, strict=True))

    @cached_property
    def _starts(self) -> Mapping[tuple[int, str], int]:
        starts, next_one = {}, self.coefficients
        for expert, sizes in self.sizes.items():
            for name, size in sizes.items():
                starts[expert, name] = next_one
                next_one += size
        return starts

    @property
    def coefficients(self) -> int:
        """The number of coefficients."""
        return self.experts * (1 + max(self.labels))

    @property
    def size(self) -> int:
        """The number of values."""
        return self.coefficients + sum(sum(sizes.values()) for sizes in self.sizes.values())

    def coefficient(self, expert: int, name: str) -> int:
        """The place of an expert's coefficient in a tensor."""
        return expert * (1 + max(self.labels)) + self._label[name]

    def scales(self, expert: int, name: str) -> slice | None:
        """The place of the scales of an expert in a tensor; None if it has none there."""
        start = self._starts.get((expert, name))
        return None if start is None else slice(start, start + self.sizes[expert][name])

    def start(self, coefficient: float, device: torch.device | str = "cpu") -> torch.Tensor:
        """Values with every coefficient at `coefficient` and every scale at 0, shape (size,), float32."""
        values = torch.zeros(self.size, device=device)
        values[: self.coefficients] = coefficient
        return values

    def fit(self, values: torch.Tensor) -> Fit:
        """The fit with these values, shape (size,)."""
        flat = values.detach().cpu().float().numpy()
        coefficients = flat[: self.coefficients].reshape(self.experts, -1)[:, list(self.labels)]
        parts = np.split(
            flat[self.coefficients :], np.cumsum([sum(each.values()) for each in self.sizes.values()])[:-1]
        )
        scales = dict(zip(self.sizes, parts, strict=True)) if self.sizes else {}
        return Fit(self.tensors, coefficients, self.along, self.sizes, scales)
