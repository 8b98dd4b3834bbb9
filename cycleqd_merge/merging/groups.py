"""The coefficient group of each tensor: the map g in the formula of a child's tensor."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING, Literal

from cycleqd_merge.config.evolution import LayerGroupsConfig, PatternGroupsConfig

if TYPE_CHECKING:
    from cycleqd_merge.merging.checkpoint import Weight

_LAYER = re.compile(r"\.(\d+)\.")
REST = "rest"


class Groups:
    """The groups of one architecture under one setting, numbered in order of first appearance.

    setting: the recipe's `evolution.groups`.
    """

    def __init__(
        self, weights: Sequence[Weight], setting: Literal["one"] | LayerGroupsConfig | PatternGroupsConfig
    ) -> None:
        layers = 1 + max((int(found.group(1)) for each in weights if (found := _LAYER.search(each.name))), default=-1)
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


def _label(weight: Weight, setting: Literal["one"] | LayerGroupsConfig | PatternGroupsConfig, layers: int) -> str:
    if isinstance(setting, str):
        return "all"
    if isinstance(setting, PatternGroupsConfig):
        return next((pattern for pattern in setting.patterns if re.search(pattern, weight.name)), REST)
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
