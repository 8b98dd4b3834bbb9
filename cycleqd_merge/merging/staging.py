"""Base tensors, experts and singular bases, kept as close to the computing device as memory allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, Literal

import torch

from cycleqd_merge.errors import ModelError
from cycleqd_merge.merging.bases import ExpertBases
from cycleqd_merge.merging.checkpoint import Weight
from cycleqd_merge.merging.family import ModelFamily, TaskVector, Whole
from cycleqd_merge.merging.shared import SharedMemory
from cycleqd_merge.merging.singular import Basis

Place = Literal["disk", "host", "shared", "device"]
"""Where tensors are kept between children: in memory-mapped files, in this process's pinned memory, in memory that all
workers of the host share, or in the device's memory."""


class Staging:
    """Provides tensors on the device. Tensors to keep in memory are stored there on first use.

    bases: by expert number.
    """

    def __init__(
        self, family: ModelFamily, bases: Mapping[int, ExpertBases], device: torch.device | str, place: Place = "disk"
    ) -> None:
        self.family, self.bases = family, bases
        self.device, self.place = torch.device(device), place
        self._kept: dict[tuple[object, str], Any] = {}
        cuda = self.device.type == "cuda"
        self._shared = SharedMemory(_contents(family, bases, cuda), pin=cuda) if place == "shared" else None

    def base(self, weight: Weight) -> torch.Tensor:
        """The base's tensor in its own dtype."""
        return self._fetch(("base", weight.name), lambda: self.family.base_tensor(weight))

    def task_vector(self, expert: int, weight: Weight, base: torch.Tensor) -> TaskVector | None:
        """tau in float32, in memory that the caller may overwrite; None where the expert equals the base.

        base: the result of `base`, in float32.
        """
        stored = self._fetch(
            (expert, weight.name), lambda: self.family.difference(expert, weight, self.family.base_tensor(weight))
        )
        if isinstance(stored, Whole):
            return stored.task_vector(base)
        return stored.clone() if isinstance(stored, torch.Tensor) else stored

    def basis(self, expert: int, name: str) -> Basis | None:
        """The singular basis of an expert's task vector for tensor `name`; None if it has none.

        Raises:
            ModelError: this expert's bases were not prepared.
        """
        if expert not in self.bases:
            name = self.family.experts[expert].name
            raise ModelError(f"the singular bases of expert {name} are required but were not prepared")
        return self._fetch(("basis", expert, name), lambda: self._stored_basis(expert, name))

    def forget(self) -> None:
        """Drop the tensors that are kept on the device; they are read again on their next use."""
        if self.place == "device":
            self._kept.clear()

    def _stored_basis(self, expert: int, name: str) -> Basis | None:
        """The basis as it is kept: for a GPU in bfloat16, the input precision of dense products."""
        basis = self.bases[expert].load(name)
        if basis is None or self.device.type != "cuda" or basis.rank < basis.vectors.shape[0]:
            return basis
        return replace(basis, vectors=basis.vectors.to(torch.bfloat16))

    def _fetch(self, key: Any, read: Callable[[], Any]) -> Any:
        """The result of `read`, on the device; kept at `place` under `key`."""
        if self.place == "disk":
            return _moved(read(), self._to_device)
        if key not in self._kept:
            if self._shared is not None:
                self._kept[key] = self._shared.get(repr(key), read)
            else:
                self._kept[key] = _moved(read(), self._to_device if self.place == "device" else self._to_host)
        return _moved(self._kept[key], self._to_device)

    def _to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.device, non_blocking=True)

    def _to_host(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.cpu().pin_memory() if self.device.type == "cuda" else tensor.clone()


def _contents(family: ModelFamily, bases: Mapping[int, ExpertBases], cuda: bool) -> str:
    """A text that identifies the inputs of all tensors."""
    parts = [family.base.digest, *(expert.digest for expert in family.experts), family.models.vocabulary, str(cuda)]
    return "|".join([*parts, *(f"{number}:{stored.digest}" for number, stored in bases.items())])


def _moved(held: Any, move: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """A tensor, or a dataclass of tensors, with every tensor moved; None stays None."""
    if held is None or isinstance(held, torch.Tensor):
        return None if held is None else move(held)
    values = {field.name: getattr(held, field.name) for field in fields(held)}
    return replace(held, **{name: move(value) for name, value in values.items() if isinstance(value, torch.Tensor)})
