"""Every tensor belongs to the group that the recipe's setting states."""

from __future__ import annotations

from fnmatch import fnmatch

import pytest
import torch

from cycleqd_merge.config.evolution import LayerGroupsConfig, PatternGroupsConfig
from cycleqd_merge.merging.checkpoint import Weight
from cycleqd_merge.merging.groups import Groups
from tests.merging.conftest import Trio
from tests.models import read_tensors

Setting = str | LayerGroupsConfig | PatternGroupsConfig
Members = dict[str, set[str]]


def members(groups: Groups) -> Members:
    return {label: set(groups.members(number)) for number, label in enumerate(groups.labels)}


def matching(trio: Trio, **patterns: str) -> Members:
    """Names of the base's tensors by label, for `label="pattern pattern"`; the others are in `rest`."""
    names = set(read_tensors(trio.base))
    found = {
        label: {name for name in names if any(fnmatch(name, pattern) for pattern in text.split())}
        for label, text in patterns.items()
    }
    return {**found, "rest": names.difference(*found.values())}


def test_one_group_contains_every_tensor(trio: Trio) -> None:
    groups = Groups(trio.family.weights, "one")
    assert members(groups) == {"all": set(read_tensors(trio.base))}


def test_groups_are_numbered_in_order_of_appearance(trio: Trio) -> None:
    groups = Groups(trio.family.weights, LayerGroupsConfig(layers=1, modules=True))
    numbers = [groups.of(weight.name) for weight in trio.family.weights]
    assert list(dict.fromkeys(numbers)) == list(range(len(groups)))
    for number in range(len(groups)):
        assert groups.members(number) == [
            weight.name for weight in trio.family.weights if groups.of(weight.name) == number
        ]


def test_layers_form_blocks(trio: Trio) -> None:
    groups = Groups(trio.family.weights, LayerGroupsConfig(layers=1))
    assert members(groups) == matching(trio, **{"layers 0-0": "*.0.*", "layers 1-1": "*.1.*"})


@pytest.mark.parametrize(("layers", "labels"), [(4, {0: "0-3", 3: "0-3", 4: "4-7", 10: "8-11"}), (12, {10: "0-11"})])
def test_blocks_order_layers_as_numbers(layers: int, labels: dict[int, str]) -> None:
    weights = [Weight(f"model.layers.{n}.mlp.up_proj.weight", (2, 2), torch.float32) for n in range(12)]
    groups = Groups(weights, LayerGroupsConfig(layers=layers))
    for layer, label in labels.items():
        assert groups.labels[groups.of(weights[layer].name)] == f"layers {label}"


def layered(layers: int) -> list[Weight]:
    names = [f"model.layers.{n}.{module}.weight" for n in range(layers) for module in ("mlp.up_proj", "self_attn.q")]
    return [Weight(name, (2, 2), torch.float32) for name in ("embed.weight", *names)]


@pytest.mark.parametrize("modules", [False, True])
def test_a_number_of_blocks_gives_the_groups_of_blocks_of_that_size(modules: bool) -> None:
    by_count = Groups(layered(30), LayerGroupsConfig(blocks=3, modules=modules))
    assert members(by_count) == members(Groups(layered(30), LayerGroupsConfig(layers=10, modules=modules)))


@pytest.mark.parametrize(("layers", "blocks"), [(10, 4), (5, 4), (22, 3), (7, 7), (3, 8), (1, 3), (9, 1)])
def test_layers_are_divided_into_blocks_as_evenly_as_possible(layers: int, blocks: int) -> None:
    groups = Groups(layered(layers), LayerGroupsConfig(blocks=blocks))
    found = [label for label in groups.labels if label != "rest"]
    spans = [tuple(map(int, label.removeprefix("layers ").split("-"))) for label in found]
    assert [n for first, last in spans for n in range(first, last + 1)] == list(range(layers))
    assert len(spans) == min(layers, blocks)
    assert {last - first + 1 for first, last in spans} <= {layers // len(spans), -(-layers // len(spans))}
    for label, (first, last) in zip(found, spans, strict=True):
        assert len(groups.members(groups.labels.index(label))) == 2 * (last - first + 1)
        assert all(first <= int(name.split(".")[2]) <= last for name in groups.members(groups.labels.index(label)))


def test_blocks_of_a_model_without_layers_are_one_group() -> None:
    assert Groups(layered(0), LayerGroupsConfig(blocks=3)).labels == ("rest",)


def test_modules_separate_attention_from_mlp_across_layers(trio: Trio) -> None:
    attention = "attn" if trio.architecture == "gpt2" else "self_attn"
    groups = Groups(trio.family.weights, LayerGroupsConfig(modules=True))
    assert members(groups) == matching(trio, **{attention: f"*.{attention}.*", "mlp": "*.mlp.*"})


def test_layers_and_modules_separate_both_ways(trio: Trio) -> None:
    attention = "attn" if trio.architecture == "gpt2" else "self_attn"
    groups = Groups(trio.family.weights, LayerGroupsConfig(layers=1, modules=True))
    wanted = {
        f"layers {layer}-{layer} {module}": f"*.{layer}.{module}.*"
        for layer in range(2)
        for module in (attention, "mlp")
    }
    assert members(groups) == matching(trio, **wanted)


def test_a_bias_is_grouped_with_its_matrix_and_a_norm_with_the_rest(trio: Trio) -> None:
    groups = Groups(trio.family.weights, LayerGroupsConfig(modules=True))
    rest = groups.labels.index("rest")
    names = set(read_tensors(trio.base))
    for name in names:
        if name.endswith(".bias") and name.replace(".bias", ".weight") in names:
            assert groups.of(name) == groups.of(name.replace(".bias", ".weight"))
        if "norm" in name or "ln_" in name:
            assert groups.of(name) == rest


def test_the_first_matching_pattern_names_the_group(llama: Trio) -> None:
    groups = Groups(llama.family.weights, PatternGroupsConfig(patterns=[r"layers\.1\.", "mlp", "^lm_head"]))
    names = set(read_tensors(llama.base))
    second = {name for name in names if ".layers.1." in name}
    mlp = {name for name in names if ".mlp." in name} - second
    assert members(groups) == {
        r"layers\.1\.": second,
        "mlp": mlp,
        "^lm_head": {"lm_head.weight"},
        "rest": names - second - mlp - {"lm_head.weight"},
    }


def test_a_pattern_without_matches_makes_no_group(llama: Trio) -> None:
    groups = Groups(llama.family.weights, PatternGroupsConfig(patterns=["nowhere", "weight"]))
    assert groups.labels == ("weight",)
