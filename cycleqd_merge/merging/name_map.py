"""Where the tensors of a checkpoint are in the transformers model: renamed, or part of a stacked or fused parameter.

The only module that uses `transformers.conversion_mapping` and `transformers.core_model_loading`, in which transformers
describes how it renames and fuses tensors on load. Both have this form since transformers 5.0.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import SimpleNamespace
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

from cycleqd_merge.errors import ModelError, first_line

Step = tuple[str, tuple[int, ...]]
"""A method of `torch.Tensor` that returns a view, and its arguments."""


class Stored(Protocol):
    """A tensor of a checkpoint."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> torch.dtype: ...


@dataclass(frozen=True)
class Part:
    """A stored tensor, or a stretch of it, as a view of a parameter.

    parameter: its name in the module's `state_dict()`. steps: lead from the parameter to the view.
    stretch: (dim, start, length) in the stored tensor; None for the whole tensor.
    """

    parameter: str
    steps: tuple[Step, ...] = ()
    stretch: tuple[int, int, int] | None = None

    def view(self, parameter: torch.Tensor) -> torch.Tensor:
        """The view of `parameter`, or of another tensor of its shape."""
        for method, arguments in self.steps:
            parameter = getattr(parameter, method)(*arguments)
        return parameter

    def cut(self, stored: torch.Tensor) -> torch.Tensor:
        """The stretch of a stored tensor."""
        return stored if self.stretch is None else stored.narrow(*self.stretch)


@dataclass(frozen=True)
class NameMap:
    """For each stored tensor of a checkpoint: where transformers puts it in the module.

    parts: by stored name, in the order of the stored tensor's stretches. shapes: of all tensors of the module, in its
    order. transposed: its modules whose stacked parameters are input x output. rename: the module's name of a tensor
    with any other name that transformers can load.
    """

    parts: Mapping[str, tuple[Part, ...]]
    shapes: Mapping[str, tuple[int, ...]]
    transposed: frozenset[str]
    rename: Callable[[str], str] = field(repr=False)

    def copy_into(self, resident: Mapping[str, torch.Tensor], name: str, stored: torch.Tensor) -> None:
        """Replace a stored tensor in the module, in place. resident: the module's `state_dict()`."""
        for part in self.parts.get(name, ()):
            part.view(resident[part.parameter]).copy_(part.cut(stored))

    def read(self, resident: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
        """A stored tensor as the module has it, in the module's dtype; the inverse of `copy_into`."""
        parts = self.parts[name]
        views = [part.view(resident[part.parameter]) for part in parts]
        if parts[0].stretch is None:
            return views[0].clone()
        return torch.cat(views, dim=parts[0].stretch[0])

    @cached_property
    def stored(self) -> Mapping[str, tuple[str, ...]]:
        """The names of the stored tensors in each parameter."""
        found: dict[str, list[str]] = {}
        for name, parts in self.parts.items():
            for part in parts:
                found.setdefault(part.parameter, []).append(name)
        return {parameter: tuple(names) for parameter, names in found.items()}

    def parameter(self, stored: str) -> str | None:
        """The name of the parameter that a stored tensor is; None if it is several, or a part of one."""
        parts = self.parts.get(stored, ())
        return parts[0].parameter if len(parts) == 1 and parts[0] == Part(parts[0].parameter) else None

    def stored_name(self, name: str) -> str | None:
        """The stored name of a parameter of the module, by any name that transformers can load; None if it has none.

        A parameter that is made of several stored tensors, or of a part of one, has none.
        """
        if name in self.parts:
            return name
        for parameter in (name, self.rename(name)):
            for stored in self.stored.get(parameter, ()):
                if self.parameter(stored) == parameter:
                    return stored
        return None


class _Traced:
    """A tensor under conversion: which stored tensors it consists of, and where they are in it.

    Only what views can express is defined: any other operation fails with a TypeError or AttributeError.
    parts: of the tensor as it is now; their `parameter` is the name of the stored tensor.
    """

    def __init__(self, shape: Iterable[int], parts: tuple[Part, ...]) -> None:
        self.shape = torch.Size(shape)
        self.parts = parts

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def contiguous(self) -> _Traced:
        return self

    def _inside(self, step: Step) -> tuple[Part, ...]:
        """The parts, seen from a tensor of which this one is the view that `step` returns."""
        return tuple(Part(part.parameter, (step, *part.steps), part.stretch) for part in self.parts)

    def transpose(self, dim0: int, dim1: int) -> _Traced:
        shape = list(self.shape)
        shape[dim0], shape[dim1] = shape[dim1], shape[dim0]
        return _Traced(shape, self._inside(("transpose", (dim0, dim1))))

    def narrow(self, dim: int, start: int, length: int) -> _Traced:
        dim %= self.ndim
        if len(self.parts) != 1 or self.parts[0].steps or self.parts[0].stretch is not None:
            raise TypeError("a piece of a converted tensor")
        part = Part(self.parts[0].parameter, (), (dim, start, length))
        return _Traced((*self.shape[:dim], length, *self.shape[dim + 1 :]), (part,))

    def split(self, sizes: Sequence[int], dim: int = 0) -> tuple[_Traced, ...]:
        starts = [sum(sizes[:place]) for place in range(len(sizes))]
        return tuple(self.narrow(dim, start, length) for start, length in zip(starts, sizes, strict=True))

    def chunk(self, chunks: int, dim: int = 0) -> tuple[_Traced, ...]:
        size, total = -(-self.shape[dim] // chunks), self.shape[dim]
        return self.split([min(size, total - start) for start in range(0, total, size)], dim)

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """`torch.stack` and the other functions that transformers' operations call."""
        known: dict[Any, Callable[..., Any]] = {
            torch.stack: _stack,
            torch.cat: _concatenate,
            torch.transpose: cls.transpose,
            torch.split: cls.split,
            torch.chunk: cls.chunk,
        }
        found = known.get(function)
        return NotImplemented if found is None else found(*args, **(kwargs or {}))


def _stack(tensors: list[_Traced], dim: int = 0) -> _Traced:
    shape = _common_shape([tensor.shape for tensor in tensors])
    parts = [part for place, tensor in enumerate(tensors) for part in tensor._inside(("select", (dim, place)))]
    return _Traced((*shape[:dim], len(tensors), *shape[dim:]), tuple(parts))


def _concatenate(tensors: list[_Traced], dim: int = 0) -> _Traced:
    shape = _common_shape([(*tensor.shape[:dim], *tensor.shape[dim + 1 :]) for tensor in tensors])
    parts, start = list[Part](), 0
    for tensor in tensors:
        parts.extend(tensor._inside(("narrow", (dim, start, tensor.shape[dim]))))
        start += tensor.shape[dim]
    return _Traced((*shape[:dim], start, *shape[dim:]), tuple(parts))


def _common_shape(shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    if len(set(shapes)) > 1:
        raise TypeError(f"shapes {' and '.join(map(str, map(tuple, set(shapes))))}")
    return shapes[0]


def build_name_map(model: PreTrainedModel, tensors: Mapping[str, Stored]) -> NameMap:
    """The map of a checkpoint's tensors, given by their stored names, into `model`, which may be on the meta device.

    Raises:
        ModelError: a float tensor has no place in the module, a tensor does not have its shape there, the module has a
            parameter that is not stored, or transformers' conversion of a tensor is not a view.
    """
    kind = type(model).__name__
    resident = model.state_dict(keep_vars=True)
    renamed, converters = renaming(model)
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    parts: dict[str, list[Part]] = {}
    owners: dict[str, str] = {}  # by parameter that one stored tensor fills
    fused: dict[str, Any] = {}
    unknown: dict[str, str] = {}  # stored name -> the module's
    for name in sorted(tensors, key=dot_natural_key):
        target, pattern = renamed(name)
        traced = _Traced(tensors[name].shape, (Part(name),))
        if target not in resident:
            unknown[name] = target
        elif pattern is not None:
            if target not in fused:
                fused[target] = copy.deepcopy(by_pattern[pattern])
            fused[target].add_tensor(target, name, pattern, traced)
        elif target in owners:
            raise ModelError(f"base: tensors {owners[target]} and {name} are the same parameter of {kind}; remove one")
        else:
            owners[target] = name
            _place(target, traced, resident, parts, kind)
    for target, converter in fused.items():
        names = sorted(converter.layer_targets[target], key=dot_natural_key)
        for parameter, value in _convert(converter, target, names[0], model).items():
            _place(parameter, value[0] if isinstance(value, list) else value, resident, parts, kind)
    ignored = left_out(model, {name: tensors[name] for name in unknown})
    homeless = [name for name in unknown if tensors[name].dtype.is_floating_point and name not in ignored]
    if homeless:
        prefix = _wrong_prefix(homeless, lambda name: renamed(name)[0] in resident)
        if prefix is not None:
            raise ModelError(
                f"base: its tensor names begin with {prefix!r}, so transformers does not load them; rename the tensors "
                "without it, and those of experts with the same names"
            )
        raise ModelError(
            f"base: tensor {homeless[0]} is not in transformers' {kind}{_more(homeless)}; remove it from base and "
            "experts, or use a version of transformers that has it"
        )
    _require_complete(model, resident, parts)
    places = {name: tuple(parts[name]) for name in tensors if name in parts}
    sizes = {name: tuple(tensor.shape) for name, tensor in resident.items()}
    transposed = frozenset(name for name, module in model.named_modules() if getattr(module, "is_transposed", False))
    return NameMap(places, sizes, transposed, lambda name: renamed(name)[0])


def _wrong_prefix(names: Sequence[str], known: Callable[[str], bool]) -> str | None:
    """What all these names have in front of a name that is known, such as `module.`; None if there is no such text."""
    parts = names[0].split(".")
    prefixes = (".".join(parts[:count]) + "." for count in range(1, len(parts)))
    found = (each for each in prefixes if all(name.startswith(each) for name in names))
    return next((each for each in found if all(known(name.removeprefix(each)) for name in names)), None)


def renaming(model: PreTrainedModel) -> tuple[Callable[[str], tuple[str, str | None]], list[WeightConverter]]:
    """What transformers does with names on load: the module's name and a converter's pattern by stored name."""
    transforms = get_model_conversion_mapping(model)
    renamings = [each for each in transforms if isinstance(each, WeightRenaming)]
    converters = [each for each in transforms if isinstance(each, WeightConverter)]
    prefix = model.base_model_prefix
    known: dict[str, Any] = dict.fromkeys(model.state_dict(), True)  # what is needed to rename, without the tensors

    def renamed(name: str) -> tuple[str, str | None]:
        found = rename_source_key(name, renamings, converters, prefix, known)
        if found[0] not in known and name in known:
            return rename_source_key(name, [], [], prefix, known)
        return found

    return renamed, converters


def left_out(model: PreTrainedModel, tensors: Mapping[str, Stored]) -> frozenset[str]:
    """The names of those of a checkpoint's tensors that are no part of `model`, and that nobody misses.

    These are the ones that transformers skips silently, the module's own buffers, which it computes, and tensors that
    cannot be trained (integers, single numbers). Any other tensor without a place in `model` is not among them.
    """
    renamed, _ = renaming(model)
    resident = model.state_dict()
    unknown = {name: place for name in tensors if (place := renamed(name)[0]) not in resident}
    info: Any = SimpleNamespace(missing_keys=set(), unexpected_keys=set(unknown.values()))
    model._adjust_missing_and_unexpected_keys(info)
    buffers = _computed_buffers(model)
    return frozenset(
        name
        for name, place in unknown.items()
        if place not in info.unexpected_keys
        or not buffers.isdisjoint((place, place.rpartition(".")[2]))
        or not tensors[name].dtype.is_floating_point
        or len(tensors[name].shape) == 0
    )


def _computed_buffers(model: PreTrainedModel) -> set[str]:
    """The buffers that are not saved, by name, and by the last part of the name where no parameter has the same.

    A buffer may have been somewhere else in an older version.
    """
    resident = model.state_dict()
    names = {name for name, _ in model.named_buffers()} - resident.keys()
    parts = {name.rpartition(".")[2] for name in names}
    return names | (parts - {name.rpartition(".")[2] for name in resident})


def _convert(converter: Any, target: str, name: str, model: PreTrainedModel) -> Mapping[str, Any]:
    """The parameters that a converter makes of the traced tensors that it collected."""
    operations = ", ".join(type(operation).__name__ for operation in converter.operations)
    try:
        found: Mapping[str, Any] = converter.convert(target, model=model, config=model.config)
        return found
    except Exception as error:  # the operations are transformers', and may use tensors in any way
        raise ModelError(
            f"base: tensor {name}: transformers converts it on load ({operations}: {first_line(error)}), "
            "which cannot be done in place; this checkpoint cannot be merged"
        ) from error


def _place(
    parameter: str, traced: _Traced, resident: Mapping[str, torch.Tensor], parts: dict[str, list[Part]], kind: str
) -> None:
    """Add the places of stored tensors that are in `parameter`."""
    stored = traced.parts[0].parameter
    if parameter not in resident:
        raise ModelError(f"base: tensor {stored} is for {parameter}, which transformers' {kind} does not have")
    if traced.shape != resident[parameter].shape:
        raise ModelError(
            f"base: tensor {stored} makes {parameter} of shape {tuple(traced.shape)}; its config.json requires "
            f"{tuple(resident[parameter].shape)}"
        )
    for part in traced.parts:
        parts.setdefault(part.parameter, []).append(Part(parameter, part.steps, part.stretch))


def vocabulary_tensors(model: PreTrainedModel, names: Iterable[str]) -> frozenset[str]:
    """Those of a checkpoint's tensors, by their stored names, that are an input or output embedding."""
    layers = [layer for layer in (model.get_input_embeddings(), model.get_output_embeddings()) if layer is not None]
    rows = {id(parameter) for layer in layers for parameter in layer.parameters(recurse=False)}
    resident, renamed = model.state_dict(keep_vars=True), renaming(model)[0]
    return frozenset(name for name in names if id(resident.get(renamed(name)[0])) in rows)


def _require_complete(
    model: PreTrainedModel, resident: Mapping[str, torch.Tensor], parts: Mapping[str, list[Part]]
) -> None:
    """Check that every parameter is stored, tied to one that is, or not expected by transformers."""
    stored = {part.parameter for places in parts.values() for part in places}
    same = {id(resident[name]) for name in stored}
    missing = {name for name, tensor in resident.items() if name not in stored and id(tensor) not in same}
    missing -= set(getattr(model, "all_tied_weights_keys", None) or ())
    info: Any = SimpleNamespace(missing_keys=missing, unexpected_keys=set())
    model._adjust_missing_and_unexpected_keys(info)
    left = sorted(info.missing_keys, key=dot_natural_key)
    if left:
        raise ModelError(
            f"base: tensor {left[0]} is missing{_more(left)}: transformers' {type(model).__name__} would fill it with "
            "random values; choose a complete checkpoint"
        )


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
