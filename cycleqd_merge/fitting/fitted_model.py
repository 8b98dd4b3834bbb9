"""A transformers model whose tensors follow the values of a fit, and the gradient of a loss by these values.

Only the model, its activations and one parameter's gradient are in memory at a time: a hook contracts the gradient of
each parameter with the task vectors as soon as the backward pass has it, and frees it. Experts are read from wherever
the run keeps them: the device, pinned host memory, or disk.

With room for all task vectors and gradients at once, gradients can be kept until the pass ends instead. Building the
tensors is then the same operations every time, and so is a pass over batches of one shape, with the contraction: a GPU
replays each as a whole. The result is the same either way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import torch

from cycleqd_merge.fitting.gradients import channel_gradient, coefficient_gradient, scale_gradient
from cycleqd_merge.fitting.layout import Layout
from cycleqd_merge.fitting.recorded import Recorded
from cycleqd_merge.merging.adapter import LowRank
from cycleqd_merge.merging.channels import channel_shapes, rescaled_channels, split_channels
from cycleqd_merge.merging.checkpoint import Weight
from cycleqd_merge.merging.family import TaskVector
from cycleqd_merge.merging.name_map import NameMap
from cycleqd_merge.merging.singular import Basis, joined, rescaled, strengthened
from cycleqd_merge.merging.staging import Staging


class FittedModel:
    """One model in memory, with hooks on the parameters that experts change.

    model: in the dtype of its forward pass, on the staging's device; it is put in training mode for gradient
    checkpointing, with all dropout off. arithmetic: dtype in which tensors are built and gradients contracted. room:
    bytes of the device's memory for task vectors in that dtype; those that do not fit are made at each use. keep: keep
    gradients until the pass ends, if there is room for them besides.
    """

    def __init__(
        self,
        model: Any,
        name_map: NameMap,
        staging: Staging,
        layout: Layout,
        arithmetic: torch.dtype = torch.float32,
        room: int = 0,
        keep: bool = False,
    ) -> None:
        self.model, self._map, self._staging, self._layout = model, name_map, staging, layout
        self._arithmetic, self._room = arithmetic, room
        self._vectors: dict[tuple[int, str], TaskVector] = {}
        self._weights = {staging.family.stored_names[weight.name]: weight for weight in staging.family.weights}
        self._resident = model.state_dict()
        self._values = torch.zeros(layout.size, dtype=arithmetic, device=staging.device)
        self._gradient = torch.zeros_like(self._values)
        sizes = {name: found for name in self._weights if (found := self._sizes(name))}
        self._changed = {name: tuple(found) for name, found in sizes.items()}
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        parameters = self._fitted_parameters()
        gradients = sum(parameter.numel() * parameter.element_size() for parameter, _ in parameters)
        needed = gradients + sum(sum(found.values()) for found in sizes.values())
        self._kept: list[tuple[dict[str, str], torch.Tensor]] | None = None
        self._hooks = list[Any]()
        if keep and staging.place == "device" and needed <= room:
            self._kept = _keep_gradients(parameters)
        else:
            contracted = [(parameter, self._hook(stored)) for parameter, stored in parameters]
            self._hooks = [parameter.register_post_accumulate_grad_hook(hook) for parameter, hook in contracted]
        self._loss = torch.zeros((), dtype=torch.float64, device=staging.device)
        self._pool = torch.cuda.graph_pool_handle() if staging.device.type == "cuda" else None
        self._building = Recorded(staging.device, self._pool)

    def _sizes(self, stored: str) -> Mapping[int, int]:
        """The experts that change a stored tensor, with the bytes of their task vectors in the fit's arithmetic."""
        weight = self._weights[stored]
        base = self._staging.base(weight).float()
        vectors = {n: self._staging.task_vector(n, weight, base) for n in range(self._layout.experts)}
        return {n: _size(_cast(vector, self._arithmetic)) for n, vector in vectors.items() if vector is not None}

    def _fitted_parameters(self) -> list[tuple[Any, dict[str, str]]]:
        """Every parameter that contains tensors which experts change, with the names of these tensors and, for each, of
        the parameter; the others need no gradient.
        """
        named = self.model.state_dict(keep_vars=True)
        names: dict[int, list[str]] = defaultdict(list)
        for name in self._map.stored:
            names[id(named[name])].append(name)
        found = []
        for parameter in self.model.parameters():
            stored = {each: name for name in names[id(parameter)] for each in self._map.stored[name]}
            changed = {each: name for each, name in stored.items() if each in self._changed}
            parameter.requires_grad_(bool(changed))
            if changed:
                found.append((parameter, changed))
        return found

    def _hook(self, stored: dict[str, str]) -> Callable[[torch.Tensor], None]:
        """A hook that contracts a parameter's gradient. stored: names of the tensors in it -> its own name."""

        def contract(parameter: torch.Tensor) -> None:
            gradient = parameter.grad
            assert gradient is not None
            parameter.grad = None
            self._contract_parameter(stored, gradient)

        return contract

    def _contract_parameter(self, stored: Mapping[str, str], gradient: torch.Tensor) -> None:
        for name, owner in stored.items():
            self._contract(name, self._stored_gradient(name, owner, gradient))

    def _stored_gradient(self, stored: str, parameter: str, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient of a stored tensor; 0 in the stretches of it that are in other parameters."""
        parts = self._map.parts[stored]
        if len(parts) == 1 and parts[0].stretch is None:
            return parts[0].view(gradient).to(self._arithmetic)
        found = torch.zeros(self._weights[stored].shape, dtype=self._arithmetic, device=gradient.device)
        for part in parts:
            if part.parameter == parameter:
                part.cut(found).copy_(part.view(gradient))
        return found

    def _contract(self, stored: str, gradient: torch.Tensor) -> None:
        weight = self._weights[stored]
        for expert in self._changed[stored]:
            vector = self._task_vector(expert, weight)
            place, own = self._layout.scales(expert, weight.name), self._layout.coefficient(expert, weight.name)
            if place is not None and self._layout.along == "channel":
                found = channel_gradient(gradient, vector)
                self._gradient[place] += found
                self._gradient[own] += found[: prod(channel_shapes(weight.shape)[0])].sum()
                continue
            self._gradient[own] += coefficient_gradient(gradient, vector)
            if place is not None:
                self._gradient[place] += scale_gradient(gradient, vector, self._basis(expert, weight))

    def _task_vector(self, expert: int, weight: Weight) -> TaskVector:
        key = expert, weight.name
        if key in self._vectors:
            return self._vectors[key]
        found = self._staging.task_vector(expert, weight, self._staging.base(weight).float())
        assert found is not None
        vector = _cast(found, self._arithmetic)
        size = _size(vector)
        if size <= self._room:
            self._vectors[key] = vector
            self._room -= size
        return vector

    def _basis(self, expert: int, weight: Weight) -> Basis:
        basis = self._staging.basis(expert, weight.name)
        assert basis is not None
        return _cast_basis(basis, self._arithmetic)

    @torch.no_grad()
    def set(self, values: torch.Tensor) -> None:
        """Give every tensor that experts change the value that it has under a fit's values, shape (size,)."""
        self._values.copy_(values)
        if self._kept is None:
            self._build()
        else:
            self._building.run(self._build)

    def _build(self) -> None:
        for stored, experts in self._changed.items():
            weight = self._weights[stored]
            self._map.copy_into(self._resident, stored, self._tensor(self._values, weight, experts))

    def _tensor(self, values: torch.Tensor, weight: Weight, experts: tuple[int, ...]) -> torch.Tensor:
        total, low = self._staging.base(weight).to(self._arithmetic), list[LowRank]()
        for expert in experts:
            for change in self._changes(values, weight, expert):
                if isinstance(change, LowRank):
                    low.append(change)
                else:
                    total = total + change.reshape(weight.shape)
        return total + joined(low).dense().reshape(weight.shape) if low else total

    def _changes(self, values: torch.Tensor, weight: Weight, expert: int) -> list[TaskVector]:
        """What a fit's values add to a tensor along one expert, as a sum of parts."""
        vector, place = self._task_vector(expert, weight), self._layout.scales(expert, weight.name)
        coefficient = values[self._layout.coefficient(expert, weight.name)]
        if place is not None and self._layout.along == "channel":
            return [rescaled_channels(vector, split_channels(values[place], weight.shape), coefficient)]
        basis = None if place is None else self._basis(expert, weight)
        m = None if place is None else values[place]
        if isinstance(vector, LowRank):
            return [strengthened(vector, basis, m, coefficient)]
        scaled = [] if basis is None or m is None else [rescaled(vector, basis, m)]
        return [vector * coefficient, *scaled]

    def recorded(self) -> Recorded | None:
        """A new place for a pass that `gradient` records; None if gradients are not kept."""
        return None if self._kept is None else Recorded(self._staging.device, self._pool)

    def gradient(
        self, loss: Callable[[Any], torch.Tensor], recorded: Recorded | None = None
    ) -> tuple[float, torch.Tensor]:
        """A loss of the model, and its gradient by the values, shape (size,), in the dtype of `arithmetic`.

        recorded: see `recorded`; the loss is then the same function of the same tensors at every call with it.
        """

        def both_passes() -> None:
            self._gradient.zero_()
            found = loss(self.model)
            torch.autograd.backward(found)
            self._contract_kept()
            self._loss.copy_(found.detach())

        if recorded is None:
            both_passes()
        else:
            recorded.run(both_passes)
        return float(self._loss), self._gradient.clone()

    @torch.no_grad()
    def _contract_kept(self) -> None:
        for stored, gradient in self._kept or ():
            self._contract_parameter(stored, gradient)
            gradient.zero_()

    def close(self) -> None:
        """Remove the hooks, and free the task vectors and gradients."""
        for hook in self._hooks:
            hook.remove()
        for parameter in self.model.parameters():
            parameter.grad = None
        self._kept = None
        self._building = Recorded(self._staging.device)
        self._vectors.clear()


def _keep_gradients(parameters: list[tuple[Any, dict[str, str]]]) -> list[tuple[dict[str, str], torch.Tensor]]:
    """Give every parameter a tensor that its gradients are added to; the tensors, with the names of what is in them."""
    for parameter, _ in parameters:
        parameter.grad = torch.zeros_like(parameter)
    return [(stored, parameter.grad) for parameter, stored in parameters]


def _size(vector: TaskVector) -> int:
    """Bytes in memory."""
    parts = (vector.left, vector.right) if isinstance(vector, LowRank) else (vector,)
    return sum(part.numel() * part.element_size() for part in parts)


def _cast(vector: TaskVector, dtype: torch.dtype) -> TaskVector:
    if isinstance(vector, LowRank):
        return LowRank(vector.left.to(dtype), vector.right.to(dtype), vector.scale)
    return vector.to(dtype)


def _cast_basis(basis: Basis, dtype: torch.dtype) -> Basis:
    return Basis(basis.vectors.to(dtype), basis.values.to(dtype), basis.side)
