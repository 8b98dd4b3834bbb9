"""The coefficient group of each tensor: the map g in the formula of a child's tensor."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING, Literal

from cycleqd_merge.bounded import Bounds, LimitExceeded, call
from cycleqd_merge.config.evolution import LayerGroupsConfig, PatternGroupsConfig
from cycleqd_merge.errors import RecipeError

if TYPE_CHECKING:
    from cycleqd_merge.merging.checkpoint import Weight

_LAYER = re.compile(r"\.(\d+)\.")
REST = "rest"
_BOUNDS = Bounds(seconds=2.0)


class Groups:
    """The groups of one architecture under one setting, numbered in order of first appearance.

    setting: the recipe's `evolution.groups`.
    """

    def __init__(
        self, weights: Sequence[Weight], setting: Literal["one"] | LayerGroupsConfig | PatternGroupsConfig
    ) -> None:
        layers = 1 + max((int(found.group(1)) for each in weights if (found := _LAYER.search(each.name))), default=-1)
        if isinstance(setting, PatternGroupsConfig):
            labels = _by_patterns(setting.patterns, [weight.name for weight in weights])
        else:
            labels = {weight.name: _label(weight, setting, layers) for weight in weights}
        self.setting = setting
        self.labels = tuple(dict.fromkeys(labels.values()))
        self._numbers = {name: self.labels.index(label) for name, label in labels.items()}

    def __len__(self) -> int:
        return len(self.labels)

    def of(self, name: str) -> int:
        """The number of the group of the tensor `name`."""
        return self._numbers[name]

    def members(self, group: int) -> list[str]:
        """Names of the group's tensors."""
        return [name for name, number in self._numbers.items() if number == group]


def _by_patterns(patterns: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """The label of each tensor: the first pattern found in its name.

    Raises:
        RecipeError: that takes too long.
    """
    try:
        found = call(_BOUNDS, _first_found, list(patterns), list(names))
    except LimitExceeded as error:
        raise RecipeError(f"evolution.groups: matching `patterns` with the tensors' names {error}; simplify") from None
    return {name: REST if place is None else patterns[place] for name, place in zip(names, found, strict=True)}


def _first_found(patterns: Sequence[str], names: Sequence[str]) -> list[int | None]:
    """In a child: the number of the first pattern found in each name."""
    return [next((place for place, pattern in enumerate(patterns) if re.search(pattern, name)), None) for name in names]


def _label(weight: Weight, setting: Literal["one"] | LayerGroupsConfig, layers: int) -> str:
    if isinstance(setting, str):
        return "all"
    layer = _LAYER.search(weight.name)
    if layer is None:
        return REST
    parts = []
    if setting.layers is not None or setting.blocks is not None:
        first, last = _block(int(layer.group(1)), setting, layers)
        parts.append(f"layers {first}-{last}")
    if setting.modules:
        module, _, inside = weight.name[layer.end() :].partition(".")
        if len(weight.shape) < 2 and "." not in inside:  # a norm: a direct child of its layer, not part of a module
            return REST
        parts.append(module)
    return " ".join(parts)


def _block(layer: int, setting: LayerGroupsConfig, layers: int) -> tuple[int, int]:
    """First and last layer of the block that contains `layer`. layers: the number of layers."""
    if setting.layers is not None:
        first = layer // setting.layers * setting.layers
        return first, first + setting.layers - 1
    blocks = setting.blocks or 1
    block = layer * blocks // layers
    return ceil(block * layers / blocks), ceil((block + 1) * layers / blocks) - 1
