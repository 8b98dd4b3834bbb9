"""An adapter's tensors by the names of the base checkpoint.

peft names them by the modules of the transformers version that saved them. These may have other names than the
checkpoint, or stack and fuse its tensors: then each stored tensor gets its own factors, cut from the module's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from cycleqd_merge.errors import ModelError
from cycleqd_merge.merging.checkpoint import Checkpoint
from cycleqd_merge.merging.name_map import NameMap, Part

PREFIX = "base_model.model."
_PLACED = re.compile(
    r"(?P<module>.+?)(?P<wrappers>(\.base_layer)*)"
    r"(?P<rest>\.(lora_|modules_to_save|original_module|token_adapter|trainable_tokens)[^.]*(\..+)?|\.[^.]+)"
)
_FACTOR = re.compile(r"\.(lora_[AB])(\.[^.]+)??\.weight")


@dataclass(frozen=True)
class _Cut:
    """The factors of one stored tensor: a part of the product of the factors `down` and `up` of a module's parameter.

    module: the parameter's name for peft's patterns. layout: the shape of the parameter. transposed: the product is
    input x output.
    """

    down: str
    up: str
    module: str
    part: Part
    layout: tuple[int, ...]
    transposed: bool


class AdapterTensors:
    """The tensors of an adapter's file, with the names of the base checkpoint; has the methods of `safe_open`.

    Raises:
        ModelError: by every method: a tensor belongs to a stacked parameter whose tensors it cannot be cut into.
    """

    def __init__(self, file: Any, label: str, base: Checkpoint | None) -> None:
        self._file, self._label, self._base = file, label, base

    def keys(self) -> list[str]:
        return [*self._renamed, *self._cuts]

    def get_tensor(self, key: str) -> torch.Tensor:
        if key in self._renamed:
            return self._file.get_tensor(self._renamed[key][0])
        return self._factor(key)

    def get_slice(self, key: str) -> Any:
        return self._file.get_slice(self._renamed[key][0]) if key in self._renamed else _Shape(self._factor(key))

    def module(self, name: str) -> str:
        """The adapter's name of the module of a stored tensor, which its configuration's patterns match."""
        return self._modules.get(name.rpartition(".")[0], name.rpartition(".")[0])

    def _factor(self, key: str) -> torch.Tensor:
        """lora_A (rank, input) or lora_B (output, rank) of a stored tensor."""
        cut = self._cuts[key]
        down, up = self._file.get_tensor(cut.down), self._file.get_tensor(cut.up)
        left, right = _cut(*_stacked(down, up, cut), cut.part)
        return (right if key.endswith("lora_A.weight") else left).contiguous()

    @cached_property
    def _renamed(self) -> Mapping[str, tuple[str, str]]:
        """By new key: the key and the module in the file."""
        return self._placed[0]

    @cached_property
    def _cuts(self) -> Mapping[str, _Cut]:
        return self._placed[1]

    @cached_property
    def _modules(self) -> Mapping[str, str]:
        """The adapter's module by the stored one, where they differ."""
        found = {}
        for key, cut in self._cuts.items():
            found[key.removeprefix(PREFIX).removesuffix(".lora_A.weight").removesuffix(".lora_B.weight")] = cut.module
        for key, (_, module) in self._renamed.items():
            placed = _PLACED.fullmatch(key.removeprefix(PREFIX))
            if placed is not None and placed["module"] != module:
                found[placed["module"]] = module
        return found

    @cached_property
    def _placed(self) -> tuple[dict[str, tuple[str, str]], dict[str, _Cut]]:
        renamed: dict[str, tuple[str, str]] = {}
        fused: dict[str, dict[str, list[str]]] = {}
        for key in self._file.keys():  # noqa: SIM118 - a safetensors file is not a dict
            placed = _PLACED.fullmatch(key.removeprefix(PREFIX))
            if self._base is None or placed is None or self._known(placed):
                renamed[key] = key, placed["module"] if placed else key
                continue
            module, rest = placed["module"], placed["rest"]
            end = rest if rest.count(".") == 1 and not rest.startswith(".lora_") else ".weight"
            stored = self._base.name_map.stored_name(module + end)
            factor = _FACTOR.fullmatch(rest)
            if stored is not None and stored.endswith(end):
                new = f"{PREFIX}{stored.removesuffix(end)}{placed['wrappers']}{rest}"
                renamed[new] = key, module
            elif factor is not None and _parameters(self._base.name_map, module):
                fused.setdefault(module, {}).setdefault(factor[1], []).append(key)
            else:
                renamed[key] = key, module
        cuts: dict[str, _Cut] = {}
        for module, keys in fused.items():
            cuts |= self._cut_module(module, keys)
        return renamed, cuts

    def _known(self, placed: re.Match[str]) -> bool:
        """Whether the checkpoint has a tensor of this module."""
        assert self._base is not None
        module, rest = placed["module"], placed["rest"]
        return any(name in self._base.known_names for name in (f"{module}.weight", f"{module}.bias", module + rest))

    def _cut_module(self, module: str, keys: Mapping[str, list[str]]) -> dict[str, _Cut]:
        """The cuts of all factors of a module with stacked or fused parameters.

        peft nests the factors of several parameters of a module; which is which follows from their shapes.
        """
        assert self._base is not None
        name_map = self._base.name_map
        left = _parameters(name_map, module)
        cuts: dict[str, _Cut] = {}
        for down, up in zip(_nested(keys.get("lora_A", [])), _nested(keys.get("lora_B", [])), strict=True):
            shapes = self._file.get_slice(down).get_shape(), self._file.get_slice(up).get_shape()
            fits = {name: fit for name in left if (fit := _fit(name_map.shapes[name], *shapes)) is not None}
            if not fits:
                raise ModelError(f"adapter {self._label}: {down}: shape {tuple(shapes[0])} fits no tensor of {module}")
            parameter = next(iter(fits))
            left.remove(parameter)
            transposed = module in name_map.transposed if fits[parameter] == "either" else fits[parameter] == "inputs"
            for stored in name_map.stored[parameter]:
                parts = name_map.parts[stored]
                if len(parts) != 1 or parts[0].stretch is not None or not _cuttable(name_map, parameter, parts[0]):
                    raise ModelError(
                        f"adapter {self._label}: changes {parameter} by factors, but {stored} in the base is not a "
                        "matrix; merge the adapter into a full checkpoint"
                    )
                cut = _Cut(down, up, parameter, parts[0], name_map.shapes[parameter], transposed)
                owner = PREFIX + stored.removesuffix(".weight")
                cuts |= {f"{owner}.lora_A.weight": cut, f"{owner}.lora_B.weight": cut}
        return cuts


class _Shape:
    def __init__(self, tensor: torch.Tensor) -> None:
        self._shape = list(tensor.shape)

    def get_shape(self) -> list[int]:
        return self._shape


def _parameters(name_map: NameMap, module: str) -> list[str]:
    """The parameters of a module, in its order."""
    return [name for name in name_map.shapes if name.rpartition(".")[0] == module and name in name_map.stored]


def _nested(keys: list[str]) -> list[str]:
    """Keys from the innermost wrapper, around the parameter that peft wrapped first, to the outermost."""
    return sorted(keys, key=lambda key: -key.count(".base_layer"))


def _fit(shape: tuple[int, ...], down: list[int], up: list[int]) -> str | None:
    """How factors fit a parameter (experts, m, n) or (m, n): `outputs` x inputs, `inputs` x outputs, or `either`.

    None if they do not.
    """
    experts = shape[0] if len(shape) == 3 else 1
    if len(shape) not in (2, 3) or down[0] != up[1] or down[0] % experts:
        return None
    straight, transposed = shape[-2:] == (up[0], down[1]), shape[-2:] == (down[1], up[0])
    if straight and transposed:
        return "either"
    return "outputs" if straight else "inputs" if transposed else None


def _cuttable(name_map: NameMap, parameter: str, part: Part) -> bool:
    """Whether a stored tensor is a matrix cut from the parameter by steps that factors can follow."""
    view = part.view(torch.empty(name_map.shapes[parameter], device="meta"))
    return view.ndim == 2 and all(method in ("select", "narrow", "transpose") for method, _ in part.steps)


def _stacked(down: torch.Tensor, up: torch.Tensor, cut: _Cut) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors whose product has the parameter's shape; as `peft.tuners.lora.layer.ParamWrapper.get_delta_weight`."""
    if len(cut.layout) == 3:
        experts = cut.layout[0]
        down = down.reshape(experts, -1, down.shape[-1])  # (experts, rank, input)
        up = up.reshape(up.shape[0], -1, experts).permute(2, 0, 1)  # (experts, output, rank)
    return (down.mT, up.mT) if cut.transposed else (up, down)


def _cut(left: torch.Tensor, right: torch.Tensor, part: Part) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors of a view of the product left @ right; both (..., m, r) and (..., r, n)."""
    for method, arguments in part.steps:
        dim = arguments[0] % left.ndim
        if method == "transpose":
            if {dim, arguments[1] % left.ndim} != {left.ndim - 2, left.ndim - 1}:
                raise ValueError(f"{part}: not a transposed matrix")
            left, right = right.mT, left.mT
        elif dim < left.ndim - 2:
            left, right = getattr(left, method)(*arguments), getattr(right, method)(*arguments)
        elif method == "narrow" and dim == left.ndim - 2:
            left = left.narrow(*arguments)
        elif method == "narrow":
            right = right.narrow(*arguments)
        else:
            raise ValueError(f"{part}: not a matrix")
    return left, right
