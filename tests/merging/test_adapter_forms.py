"""Adapters as people save them: an exported expert answers as peft runs the adapter, or one line says why it cannot."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from cycleqd_merge.config.recipe import ModelsConfig
from cycleqd_merge.errors import UserError
from cycleqd_merge.evolution.candidate import MergekitConfiguration
from cycleqd_merge.evolution.genome import Mutation, expert_genome
from cycleqd_merge.merging.adapter import Adapter, LowRank
from cycleqd_merge.merging.adapter_checks import stock_merges
from cycleqd_merge.merging.bases import prepare_bases
from cycleqd_merge.merging.checks import Problems, check_family
from cycleqd_merge.merging.download import needed_files
from cycleqd_merge.merging.family import ModelFamily
from cycleqd_merge.merging.groups import Groups
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.mergekit_run import merge_to_disk, merged_tensors
from cycleqd_merge.merging.sizes import directions, expert_bytes
from tests.architectures import make_architecture
from tests.models import (
    VOCABULARY,
    Architecture,
    edit_json,
    make_adapter,
    make_base,
    make_recipe,
    make_tokenizer,
    on_base,
    open_recipe_family,
    write_tensors,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # peft warns about such adapters

IDS = torch.arange(5, 25)[None]
LAYERS = {"llama": ("q_proj", "embed_tokens"), "qwen2": ("q_proj", "embed_tokens"), "gpt2": ("c_attn", "wte")}
PREFIX = "base_model.model."


def family_of(folder: Path, base: Path, adapter: Path, **models: Any) -> ModelFamily:
    """A family of which the adapter is the first expert."""
    other = folder / "other"
    if not other.is_dir():
        make_adapter(base, other, seed=9)
    experts = {"tuned": on_base(base, adapter), "other": on_base(base, other)}
    return open_recipe_family(make_recipe(folder, base, experts, models=models))


def exported_logits(family: ModelFamily, folder: Path) -> torch.Tensor:
    """The logits of the first expert as a checkpoint that transformers loads."""
    materialiser = Materialiser(family, Groups(family.weights, "one"), {})
    shutil.copytree(family.base.path, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    write_tensors(folder, dict(materialiser.tensors(expert_genome(0, 2, 1))))
    with torch.no_grad():
        logits: torch.Tensor = AutoModelForCausalLM.from_pretrained(folder)(IDS).logits
    return logits


def run_by_peft(base: Path, adapter: Path, rows: int | None = None) -> torch.Tensor:
    """The logits of base and adapter; rows: what the base's vocabulary is resized to first."""
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if rows is not None:
        model.resize_token_embeddings(rows)
    with torch.no_grad():
        logits: torch.Tensor = peft.PeftModel.from_pretrained(model, adapter)(IDS).logits
    return logits


def named(options: dict[str, Any], architecture: Architecture) -> dict[str, Any]:
    """Options with `layer` and `embedding` replaced by the names of an architecture's layers."""
    layer, embedding = LAYERS[architecture]
    text = json.dumps({"target_modules": ["layer"], **options})
    renamed: dict[str, Any] = json.loads(text.replace('"layer"', f'"{layer}"').replace('"embedding"', f'"{embedding}"'))
    return renamed


BOTH = {"target_modules": ["layer", "embedding", "lm_head"]}
SAVE_BOTH = {"modules_to_save": ["embedding", "lm_head"]}
TIED = {"ensure_weight_tying": True}
TOKENS_DIFFER = {"trainable_token_indices": {"embedding": [5, 9], "lm_head": [5, 8]}}

UNTIED = {
    "lora": {},
    "embedding": {"target_modules": ["layer", "embedding"]},
    "embedding and head": BOTH,
    "embedding and head, tying asked for in vain": {**BOTH, **TIED},
    "saved embedding": {"modules_to_save": ["embedding"]},
    "saved embedding and head": SAVE_BOTH,
    "saved head, embedding by LoRA": {"target_modules": ["embedding"], "modules_to_save": ["lm_head"]},
    "tokens": {"trainable_token_indices": [5, 9, 24]},
    "tokens of both": {"trainable_token_indices": {"embedding": [5, 9], "lm_head": [5, 9]}},
    "different tokens of both": TOKENS_DIFFER,
    "DoRA": {"use_dora": True, "target_modules": "all-linear"},
    "DoRA, rank-stabilised, patterns": {
        "use_dora": True,
        "use_rslora": True,
        "rank_pattern": {"layer": 2},
        "alpha_pattern": {"layer": 3},
    },
    "DoRA and head": {"use_dora": True, "target_modules": ["layer", "lm_head"]},
    "DoRA and all biases": {"use_dora": True, "bias": "all"},
    "DoRA and saved embedding": {"use_dora": True, "modules_to_save": ["embedding"]},
    "one layer": {"layers_to_transform": [1]},
    "a regular expression": {"target_modules": r".*\.1\..*(q_proj|c_attn)"},
    "patterns of regular expressions": {
        "target_modules": "all-linear",
        "rank_pattern": {r".*\.0\..*": 3},
        "alpha_pattern": {r".*(0|1)\.(mlp|self_attn).*": 5},
    },
    "orthogonal start": {"init_lora_weights": "orthogonal"},
    "Gaussian start": {"init_lora_weights": "gaussian"},
}
TIED_ALIKE = {
    "saved head": {"modules_to_save": ["lm_head"], **TIED},
    "saved embedding and head": {**SAVE_BOTH, **TIED},
    "tokens": {"trainable_token_indices": [5, 9, 24]},
    "tokens of both": {"trainable_token_indices": {"embedding": [5, 9], "lm_head": [5, 9]}},
    "DoRA of other layers": {"use_dora": True},
}
TIED_BY_NAME = {  # peft ties these where the embedding is called `embed_tokens`, and not in GPT-2
    "saved embedding": {"modules_to_save": ["embedding"], **TIED},
    "embedding": {"target_modules": ["layer", "embedding"], **TIED},
    "embedding and head": {**BOTH, **TIED},
}
TIED_APART = {
    "saved embedding and head": SAVE_BOTH,
    "saved head": {"modules_to_save": ["lm_head"]},
    "saved embedding": {"modules_to_save": ["embedding"]},
    "head": {"target_modules": ["layer", "lm_head"]},
    "embedding": {"target_modules": ["layer", "embedding"]},
    "embedding and head": BOTH,
    "saved head, embedding by LoRA": {"target_modules": ["embedding"], "modules_to_save": ["lm_head"]},
    "different tokens": TOKENS_DIFFER,
    "tokens of the head": {"trainable_token_indices": {"lm_head": [5, 9]}},
}
RUN: list[tuple[Architecture, bool, dict[str, Any]]] = [
    *((architecture, False, options) for options in UNTIED.values() for architecture in LAYERS),
    *((architecture, True, options) for options in TIED_ALIKE.values() for architecture in LAYERS),
    *((architecture, True, options) for options in TIED_BY_NAME.values() for architecture in ("llama", "qwen2")),
]
NAMES = [
    *(f"{architecture}-{name}" for name in UNTIED for architecture in LAYERS),
    *(f"{architecture}-tied {name}" for name in TIED_ALIKE for architecture in LAYERS),
    *(f"{architecture}-tied by name, {name}" for name in TIED_BY_NAME for architecture in ("llama", "qwen2")),
]


@pytest.mark.parametrize(("architecture", "tied", "options"), RUN, ids=NAMES)
def test_an_expert_answers_as_peft_runs_its_adapter(
    architecture: Architecture, tied: bool, options: dict[str, Any], tmp_path: Path
) -> None:
    base = make_base(tmp_path / "base", architecture, torch.float32, tied=tied)
    adapter = make_adapter(base, tmp_path / "adapter", seed=1, **named(options, architecture))
    family = family_of(tmp_path, base, adapter)
    assert check_family(family).errors == []
    wanted = run_by_peft(base, adapter)
    torch.testing.assert_close(exported_logits(family, tmp_path / "out"), wanted, rtol=1e-5, atol=3e-5)
    plain = AutoModelForCausalLM.from_pretrained(base)(IDS).logits
    assert (wanted - plain).abs().max() > 0.05


@pytest.mark.parametrize("options", TIED_APART.values(), ids=TIED_APART)
@pytest.mark.parametrize("architecture", LAYERS)
def test_an_adapter_that_unties_a_tied_base_is_refused(
    architecture: Architecture, options: dict[str, Any], tmp_path: Path
) -> None:
    base = make_base(tmp_path / "base", architecture, torch.float32, tied=True)
    adapter = make_adapter(base, tmp_path / "adapter", seed=1, **named(options, architecture))
    embedding = "transformer.wte.weight" if architecture == "gpt2" else "model.embed_tokens.weight"
    assert check_family(family_of(tmp_path, base, adapter)).errors == [
        f"expert tuned: its adapter gives {embedding} and lm_head.weight different values, but the base ties them; "
        "train it with peft's `ensure_weight_tying`, or use an untied copy of the base (`tie_word_embeddings: false`)"
    ]


@pytest.mark.parametrize("options", TIED_BY_NAME.values(), ids=TIED_BY_NAME)
def test_a_tied_head_that_peft_does_not_load_is_refused(options: dict[str, Any], tmp_path: Path) -> None:
    """peft ties the factors of GPT-2's layers in training at most, and does not load those of the head again."""
    base = make_base(tmp_path / "base", "gpt2", torch.float32)
    adapter = make_adapter(base, tmp_path / "adapter", seed=1, **named(options, "gpt2"))
    (error,) = check_family(family_of(tmp_path, base, adapter)).errors
    assert "different values, but the base ties them" in error


OTHERS = ("gemma2", "gemma3", "phi3", "gpt_neox", "falcon", "cohere", "starcoder2", "smollm3", "lfm2", "bloom", "opt")


@pytest.mark.parametrize("name", OTHERS)
def test_dora_of_all_linear_layers_in_other_architectures(name: str, tmp_path: Path) -> None:
    base = make_architecture(name, tmp_path / "base", torch.float32)
    adapter = make_adapter(base, tmp_path / "adapter", seed=1, use_dora=True)
    family = family_of(tmp_path, base, adapter)
    assert check_family(family).errors == []
    wanted = run_by_peft(base, adapter)
    torch.testing.assert_close(exported_logits(family, tmp_path / "out"), wanted, rtol=1e-5, atol=3e-5)


@pytest.mark.parametrize("name", ["gemma2", "gemma3", "cohere", "starcoder2", "smollm3", "lfm2", "opt"])
def test_tied_embeddings_in_other_architectures(name: str, tmp_path: Path) -> None:
    base = make_architecture(name, tmp_path / "base", torch.float32)
    apart = make_adapter(base, tmp_path / "apart", seed=1, target_modules=["embed_tokens"])
    (error,) = check_family(family_of(tmp_path, base, apart)).errors
    assert "different values, but the base ties them" in error
    alike = make_adapter(base, tmp_path / "alike", seed=1, target_modules=["embed_tokens"], **TIED)
    family = family_of(tmp_path, base, alike)
    assert check_family(family).errors == []
    wanted = run_by_peft(base, alike)
    torch.testing.assert_close(exported_logits(family, tmp_path / "out"), wanted, rtol=1e-5, atol=3e-5)


# --- the same adapter under other names of tensors -------------------------------------------------------------------


def renamed(adapter: Path, rename: Callable[[str], Sequence[str]]) -> None:
    """Store each tensor of an adapter under other names."""
    file = adapter / "adapter_model.safetensors"
    tensors = {name: tensor.clone() for key, tensor in load_file(file).items() for name in rename(key)}
    save_file(tensors, file)


def with_adapter_name(name: str) -> Callable[[str], Sequence[str]]:
    def rename(key: str) -> Sequence[str]:
        if "modules_to_save" in key or "lora_" not in key:
            return [key]
        stem, _, end = key.rpartition(".")
        return [f"{key}.{name}" if end.startswith("lora_") else f"{stem}.{name}.{end}"]

    return rename


def saved_whole(*endings: str) -> Callable[[str], Sequence[str]]:
    """modules_to_save under other names: those of its wrapper's copies."""

    def rename(key: str) -> Sequence[str]:
        module = key.removesuffix(".weight")
        return [f"{module}{ending}" for ending in endings] if module.endswith(("lm_head", "embed_tokens")) else [key]

    return rename


SPELLINGS: dict[str, tuple[dict[str, Any], Callable[[str], Sequence[str]]]] = {
    "adapter's name": ({}, with_adapter_name("default")),
    "a name of one's own": ({}, with_adapter_name("sql-v2")),
    "the name in DoRA and an embedding": (
        {"target_modules": ["q_proj", "embed_tokens"]},
        with_adapter_name("mine"),
    ),
    "the name in DoRA": ({"use_dora": True}, with_adapter_name("mine")),
    "DoRA's magnitude as a layer": (
        {"use_dora": True},
        lambda key: [f"{key}.weight" if key.endswith("lora_magnitude_vector") else key],
    ),
    "no prefix": ({}, lambda key: [key.removeprefix(PREFIX)]),
    "wrapper's copies": (
        {"modules_to_save": ["lm_head", "embed_tokens"]},
        saved_whole(".modules_to_save.default.weight", ".original_module.weight"),
    ),
    "wrapper's copies without a name": (
        {"modules_to_save": ["lm_head", "embed_tokens"]},
        saved_whole(".modules_to_save.weight", ".original_module.weight"),
    ),
    "all copies": (
        {"modules_to_save": ["lm_head", "embed_tokens"]},
        saved_whole(".weight", ".modules_to_save.weight", ".original_module.weight"),
    ),
    "named tokens": (
        {"trainable_token_indices": [5, 9]},
        lambda key: [f"{key}.default" if key.endswith("trainable_tokens_delta") else key],
    ),
}


@pytest.mark.parametrize(("options", "rename"), SPELLINGS.values(), ids=SPELLINGS)
def test_tensors_are_found_under_the_names_of_every_save(
    options: dict[str, Any], rename: Callable[[str], Sequence[str]], tmp_path: Path
) -> None:
    base = make_base(tmp_path / "base", dtype=torch.float32)
    adapter = make_adapter(base, tmp_path / "adapter", seed=1, **{"target_modules": ["q_proj"], **options})
    wanted = exported_logits(family_of(tmp_path, base, adapter), tmp_path / "before")
    renamed(adapter, rename)
    family = family_of(tmp_path, base, adapter)
    assert check_family(family).errors == []
    assert torch.equal(exported_logits(family, tmp_path / "after"), wanted)


def test_the_copy_that_peft_loads_counts(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", dtype=torch.float32)
    adapter = make_adapter(base, tmp_path / "adapter", seed=1, modules_to_save=["lm_head"])
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, f"{PREFIX}lm_head.original_module.weight": tensors[f"{PREFIX}lm_head.weight"] + 1}, file)
    wanted = run_by_peft(base, adapter)
    torch.testing.assert_close(
        exported_logits(family_of(tmp_path, base, adapter), tmp_path / "out"), wanted, rtol=1e-5, atol=3e-5
    )


# --- a resized vocabulary --------------------------------------------------------------------------------------------

RESIZED: dict[str, tuple[bool, dict[str, Any]]] = {
    "neither": (False, {}),
    "saved embedding": (False, {"modules_to_save": ["embed_tokens"]}),
    "saved embedding and head": (False, {"modules_to_save": ["embed_tokens", "lm_head"]}),
    "embedding": (False, {"target_modules": ["q_proj", "embed_tokens"]}),
    "embedding and head": (False, {"target_modules": ["q_proj", "embed_tokens", "lm_head"]}),
    "DoRA and head": (False, {"use_dora": True, "target_modules": ["q_proj", "lm_head"]}),
    "tokens": (False, {"trainable_token_indices": [7, VOCABULARY, VOCABULARY + 1]}),
    "tied saved embedding and head": (True, {"modules_to_save": ["embed_tokens", "lm_head"], **TIED}),
    "tied embedding and head": (True, {"target_modules": ["q_proj", "embed_tokens"], **TIED}),
    "tied tokens": (True, {"trainable_token_indices": [7, VOCABULARY, VOCABULARY + 1]}),
    "tied neither": (True, {}),
}


def make_resized(base: Path, folder: Path, rows: int, **options: Any) -> Path:
    """An adapter trained after the base's vocabulary was resized to `rows`, as peft saves it."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        model.resize_token_embeddings(rows)
        config = peft.LoraConfig(**{"r": 4, "task_type": "CAUSAL_LM", "target_modules": ["q_proj"], **options})
        adapted = peft.get_peft_model(model, config)
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
        adapted.save_pretrained(str(folder))
    return folder


@pytest.mark.parametrize(("tied", "options"), RESIZED.values(), ids=RESIZED)
def test_added_rows_are_dropped_under_vocabulary_base(tied: bool, options: dict[str, Any], tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", dtype=torch.float32, tied=tied)
    adapter = make_resized(base, tmp_path / "adapter", VOCABULARY + 2, **options)
    family = family_of(tmp_path, base, adapter, vocabulary="base")
    problems = check_family(family)
    assert problems.errors == []
    assert any("2 rows beyond the base's vocabulary dropped" in notice for notice in problems.notices)
    wanted = run_by_peft(base, adapter, VOCABULARY + 2)[..., :VOCABULARY]
    torch.testing.assert_close(exported_logits(family, tmp_path / "out"), wanted, rtol=1e-5, atol=3e-5)


@pytest.mark.parametrize(("tied", "options"), RESIZED.values(), ids=RESIZED)
def test_added_rows_are_refused_under_vocabulary_strict(tied: bool, options: dict[str, Any], tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", dtype=torch.float32, tied=tied)
    adapter = make_resized(base, tmp_path / "adapter", VOCABULARY + 2, **options)
    errors = check_family(family_of(tmp_path, base, adapter)).errors
    line = "shape (102, 32), the base has (100, 32); `models.vocabulary: base` drops added rows"
    possible = [f"expert tuned: tensor {name}.weight: {line}" for name in ("lm_head", "model.embed_tokens")]
    assert errors
    assert set(errors) <= set(possible)


def test_trained_tokens_beyond_the_vocabulary_are_refused_under_vocabulary_strict(tmp_path: Path) -> None:
    """The embedding itself is not stored where peft did not find the base's configuration."""
    base = make_base(tmp_path / "base", dtype=torch.float32)
    adapter = make_resized(base, tmp_path / "adapter", VOCABULARY + 2, trainable_token_indices=[7, VOCABULARY])
    file = adapter / "adapter_model.safetensors"
    save_file({key: tensor for key, tensor in load_file(file).items() if "lora" in key or "delta" in key}, file)
    assert check_family(family_of(tmp_path, base, adapter)).errors == [
        "expert tuned: tensor model.embed_tokens.weight: shape (101, 32), the base has (100, 32); "
        "`models.vocabulary: base` drops added rows"
    ]
    assert check_family(family_of(tmp_path, base, adapter, vocabulary="base")).errors == []


def test_a_resized_embedding_that_unties_a_tied_base_is_refused(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", dtype=torch.float32, tied=True)
    adapter = make_resized(base, tmp_path / "adapter", VOCABULARY + 2, modules_to_save=["embed_tokens"])
    (error,) = check_family(family_of(tmp_path, base, adapter, vocabulary="base")).errors
    assert "different values, but the base ties them" in error


@pytest.mark.parametrize("tied", [False, True])
def test_cut_padding_rows_are_the_bases(tied: bool, tmp_path: Path) -> None:
    """Trainers resize the vocabulary to the tokenizer's, which cuts off the padding of many models."""
    plain = make_base(tmp_path / "plain", dtype=torch.float32, tied=tied)
    base: Any = AutoModelForCausalLM.from_pretrained(plain)
    base.resize_token_embeddings(VOCABULARY + 4)
    base.save_pretrained(tmp_path / "base")
    make_tokenizer().save_pretrained(tmp_path / "base")
    options = {"modules_to_save": ["embed_tokens", "lm_head"], "ensure_weight_tying": tied}
    adapter = make_resized(tmp_path / "base", tmp_path / "adapter", VOCABULARY, **options)
    family = family_of(tmp_path, tmp_path / "base", adapter)
    problems = check_family(family)
    assert problems.errors == []
    assert any("4 rows that belong to no token are missing; the base's are used" in each for each in problems.notices)
    wanted = run_by_peft(tmp_path / "base", adapter, VOCABULARY)
    answered = exported_logits(family, tmp_path / "out")[..., :VOCABULARY]
    torch.testing.assert_close(answered, wanted, rtol=1e-5, atol=3e-5)


@pytest.mark.parametrize("with_tokenizer", [False, True])
def test_added_padding_rows_are_dropped(with_tokenizer: bool, tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", dtype=torch.float32)
    options = {"target_modules": ["q_proj", "lm_head", "embed_tokens"], "use_rslora": True}
    adapter = make_resized(base, tmp_path / "adapter", VOCABULARY + 28, **options)
    if with_tokenizer:
        make_tokenizer().save_pretrained(adapter)
    family = family_of(tmp_path, base, adapter)
    errors = check_family(family).errors
    if not with_tokenizer:  # nothing says that the rows belong to no token
        assert "expert tuned: tensor lm_head.weight: shape (128, 32), the base has (100, 32)" in errors[0]
        return
    assert errors == []
    wanted = run_by_peft(base, adapter, VOCABULARY + 28)[..., :VOCABULARY]
    torch.testing.assert_close(exported_logits(family, tmp_path / "out"), wanted, rtol=1e-5, atol=3e-5)


# --- biases ----------------------------------------------------------------------------------------------------------


def test_a_bias_that_the_base_has_no_place_for_is_refused(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", dtype=torch.float32)
    adapter = make_adapter(base, tmp_path / "adapter", seed=1, lora_bias=True, target_modules=["q_proj"])
    assert check_family(family_of(tmp_path, base, adapter)).errors == [
        "expert tuned: its adapter adds model.layers.0.self_attn.q_proj.bias and 1 other tensor, which the base lacks; "
        "train it without `lora_bias`"
    ]


def test_a_bias_of_zeros_changes_nothing(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", dtype=torch.float32)
    adapter = make_adapter(base, tmp_path / "adapter", seed=1, lora_bias=True, target_modules=["q_proj"])
    file = adapter / "adapter_model.safetensors"
    save_file({key: tensor * 0 if key.endswith("bias") else tensor for key, tensor in load_file(file).items()}, file)
    family = family_of(tmp_path, base, adapter)
    assert check_family(family).errors == []
    wanted = run_by_peft(base, adapter)
    torch.testing.assert_close(exported_logits(family, tmp_path / "out"), wanted, rtol=1e-5, atol=3e-5)


# --- what is refused in one line -------------------------------------------------------------------------------------

Change = Callable[[Path], None]


def tensors_changed(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Change:
    def apply(adapter: Path) -> None:
        file = adapter / "adapter_model.safetensors"
        save_file(change(load_file(file)), file)

    return apply


def configured(**keys: Any) -> Change:
    return lambda adapter: edit_json(adapter / "adapter_config.json", **keys)


def first(name: str, value: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    """Change the first tensor whose name has this part."""

    def apply(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        key = next(key for key in tensors if name in key)
        return {**tensors, key: value(tensors[key]).contiguous()}

    return tensors_changed(apply)


def without_method(adapter: Path) -> None:
    file = adapter / "adapter_config.json"
    stated = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in stated.items() if key != "peft_type"}))


REFUSED: dict[str, tuple[dict[str, Any], Change, str]] = {
    "no tensors": ({}, tensors_changed(lambda tensors: {}), "adapter_model.safetensors has no tensors"),
    "one factor": (
        {},
        tensors_changed(lambda tensors: {key: each for key, each in tensors.items() if "lora_A" in key}),
        "one of its two factors is missing; save the adapter again",
    ),
    "factors not gathered (ZeRO-3)": ({}, first("lora_A", lambda tensor: tensor.new_zeros(0)), "are not those of a"),
    "a convolution": ({}, first("lora_A", lambda tensor: tensor[..., None]), "are not those of a linear layer"),
    "rank 0": ({}, configured(r=0), "factors of rank 4; adapter_config.json states rank 0"),
    "another rank": ({}, configured(r=8), "factors of rank 4; adapter_config.json states rank 8"),
    "no alpha": ({}, configured(lora_alpha=None), "alpha None, so the scale is unknown"),
    "NaN": ({}, first("lora_B", lambda tensor: tensor * torch.nan), "contains NaN or infinite values"),
    "two adapters": (
        {},
        tensors_changed(
            lambda tensors: {
                key.replace(".weight", f".{name}.weight"): each + 0 for key, each in tensors.items() for name in "ab"
            }
        ),
        "its file has several adapters (a, b); save one alone",
    ),
    "another layer": (
        {},
        tensors_changed(lambda tensors: {key.replace("layers.1", "layers.7"): each for key, each in tensors.items()}),
        "its adapter changes model.layers.7.self_attn.q_proj.weight, which the base lacks",
    ),
    "a wrapped module without its copy": (
        {},
        tensors_changed(lambda tensors: {**tensors, f"{PREFIX}lm_head.original_module.weight": torch.zeros(100, 32)}),
        f"unknown kind of tensor: {PREFIX}lm_head.original_module.weight",
    ),
    "another kind of tensor": (
        {},
        tensors_changed(lambda tensors: {**tensors, f"{PREFIX}lm_head.lora_diag.weight": torch.zeros(4)}),
        "unknown kind of tensor",
    ),
    "DoRA of an embedding": ({"use_dora": True, "target_modules": ["embed_tokens"]}, configured(), "DoRA of an"),
    "DoRA without its factors": (
        {"use_dora": True},
        tensors_changed(lambda tensors: {key: each for key, each in tensors.items() if "magnitude" in key}),
        "unknown kind of tensor",
    ),
    "DoRA of another size": (
        {"use_dora": True},
        first("magnitude", lambda tensor: tensor[:-1]),
        "(magnitude) has shape (31,); the base has (32,)",
    ),
    "other tokens": (
        {"trainable_token_indices": [5, 9]},
        configured(trainable_token_indices=[5]),
        "has 2 rows; `trainable_token_indices` in its configuration has 1",
    ),
    "PiSSA": ({"init_lora_weights": "pissa"}, configured(), "LoRA initialised with `pissa`"),
    "PiSSA, fast": ({}, configured(init_lora_weights="pissa_niter_4"), "LoRA initialised with `pissa_niter_4`"),
    "OLoRA": ({"init_lora_weights": "olora"}, configured(), "LoRA initialised with `olora`"),
    "CorDA": ({}, configured(init_lora_weights="corda"), "LoRA initialised with `corda`"),
    "LoftQ": ({}, configured(init_lora_weights="loftq", loftq_config={"bits": 4}), "LoRA initialised with `loftq`"),
    "activated LoRA": ({}, configured(alora_invocation_tokens=[5]), "LoRA with `alora_invocation_tokens`"),
    "replicated layers": ({}, configured(layer_replication=[[0, 2], [0, 2]]), "LoRA with `layer_replication`"),
    "QA-LoRA": ({}, configured(use_qalora=True), "LoRA with `use_qalora`"),
    "no method": ({}, without_method, "missing required keys"),
    "an unknown method": (
        {},
        configured(peft_type="FUTURE"),
        "the installed peft does not know the method 'FUTURE'; update peft",
    ),
}


@pytest.mark.parametrize(("options", "change", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_a_change_of_weights_is_refused_in_one_line(
    options: dict[str, Any], change: Change, message: str, tmp_path: Path
) -> None:
    base = make_base(tmp_path / "base", dtype=torch.float32)
    adapter = make_adapter(base, tmp_path / "adapter", seed=1, **{"target_modules": ["q_proj"], **options})
    change(adapter)
    try:
        errors = check_family(family_of(tmp_path, base, adapter)).errors
    except UserError as error:
        errors = [str(error)]
    assert message in errors[0]
    assert all(len(error.splitlines()) == 1 for error in errors)


METHODS: dict[str, Callable[[], peft.PeftConfig]] = {
    "LOHA": lambda: peft.LoHaConfig(target_modules=["q_proj"]),
    "LOKR": lambda: peft.LoKrConfig(target_modules=["q_proj"]),
    "IA3": lambda: peft.IA3Config(target_modules=["k_proj"], feedforward_modules=[], task_type="CAUSAL_LM"),
    "VERA": lambda: peft.VeraConfig(target_modules=["q_proj"]),
    "PREFIX_TUNING": lambda: peft.PrefixTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"),
    "PROMPT_TUNING": lambda: peft.PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"),
    "TRAINABLE_TOKENS": lambda: peft.TrainableTokensConfig(token_indices=[5], target_modules=["embed_tokens"]),
    "ADALORA": lambda: peft.AdaLoraConfig(target_modules=["q_proj"], total_step=10, task_type="CAUSAL_LM"),
}


@pytest.mark.parametrize("method", METHODS)
def test_other_methods_are_refused_by_name(method: str, tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", dtype=torch.float32)
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), METHODS[method]())
    model.save_pretrained(str(tmp_path / "adapter"))
    with pytest.raises(UserError, match=f"^adapter .*: {method} has no low-rank task vector; merge it into a full"):
        family_of(tmp_path, base, tmp_path / "adapter")


# --- files and configurations ----------------------------------------------------------------------------------------


def test_an_adapter_in_a_folder_of_its_own_is_named(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", dtype=torch.float32)
    make_adapter(base, tmp_path / "adapter" / "sql", seed=1)
    with pytest.raises(UserError, match=r"adapters are in its folders sql: name one of them$"):
        family_of(tmp_path, base, tmp_path / "adapter")


def test_keys_that_peft_does_not_know_are_reported(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", dtype=torch.float32)
    adapter = make_adapter(base, tmp_path / "adapter", seed=1)
    edit_json(adapter / "adapter_config.json", use_future=True, merge_weights=False, enable_lora=None)
    assert check_family(family_of(tmp_path, base, adapter)) == Problems(
        [],
        [
            "expert tuned: adapter_config.json has keys that the installed peft ignores: use_future; "
            "update peft if they change the model"
        ],
    )


def test_a_configuration_without_alpha_has_pefts_default(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", dtype=torch.float32)
    adapter = make_adapter(base, tmp_path / "adapter", seed=1, lora_alpha=32)
    file = adapter / "adapter_config.json"
    stated = json.loads(file.read_text())
    file.write_text(json.dumps({key: stated[key] for key in ("peft_type", "task_type", "r", "target_modules")}))
    wanted = run_by_peft(base, adapter)
    family = family_of(tmp_path, base, adapter)
    torch.testing.assert_close(exported_logits(family, tmp_path / "out"), wanted, rtol=1e-5, atol=3e-5)


Kind = Literal["zip", "legacy"]


def pickled(adapter: Path, kind: Kind = "zip") -> Path:
    """Store an adapter's tensors as a pickle, as old versions of peft do."""
    file = adapter / "adapter_model.safetensors"
    torch.save(load_file(file), adapter / "adapter_model.bin", _use_new_zipfile_serialization=kind == "zip")
    file.unlink()
    return adapter


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_pickles_are_read_where_the_recipe_allows_them(kind: Kind, tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", dtype=torch.float32, tied=True)
    adapter = make_adapter(base, tmp_path / "adapter", seed=1, modules_to_save=["embed_tokens", "lm_head"], **TIED)
    wanted = exported_logits(family_of(tmp_path, base, adapter), tmp_path / "before")
    pickled(adapter, kind)
    with pytest.raises(UserError, match=r"contains only pickles; .* or allow them with `models.pickles: true`$"):
        family_of(tmp_path, base, adapter)
    family = family_of(tmp_path, base, adapter, pickles=True)
    assert check_family(family).errors == []
    assert torch.equal(exported_logits(family, tmp_path / "after"), wanted)


def test_a_changed_configuration_of_a_pickled_adapter_counts(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", dtype=torch.float32)
    adapter = pickled(make_adapter(base, tmp_path / "adapter", seed=1))
    before = family_of(tmp_path, base, adapter, pickles=True).experts[0]
    edit_json(adapter / "adapter_config.json", lora_alpha=99)
    assert family_of(tmp_path, base, adapter, pickles=True).experts[0].digest != before.digest


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (Path("hostile"), "ran"))


@pytest.mark.parametrize("content", [b"", b"not a pickle", Hostile()], ids=["empty", "damaged", "hostile"])
def test_a_pickle_with_more_than_weights_is_refused(content: Any, tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", dtype=torch.float32)
    adapter = pickled(make_adapter(base, tmp_path / "adapter", seed=1))
    file = adapter / "adapter_model.bin"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save({"weight": content}, file)
    with pytest.raises(UserError, match="its pickles contain more than weights, or are damaged"):
        family_of(tmp_path, base, adapter, pickles=True)
    assert not Path("hostile").exists()


# --- dense task vectors ----------------------------------------------------------------------------------------------


def test_a_dense_change_counts_as_such(tmp_path: Path) -> None:
    """DoRA changes all singular values: estimates of memory and bases must not assume the rank of its factors."""
    base = make_base(tmp_path / "base", dtype=torch.float32)
    family = family_of(tmp_path, base, make_adapter(base, tmp_path / "adapter", seed=1, use_dora=True))
    expert = family.experts[0]
    assert isinstance(expert.weights, Adapter)
    weight = next(weight for weight in family.weights if weight.name.endswith("0.self_attn.q_proj.weight"))
    vector = family.task_vector(0, weight, family.base_tensor(weight))
    assert isinstance(vector, torch.Tensor)
    assert int(torch.linalg.matrix_rank(vector)) == directions(weight, expert) == 32
    vectors = [family.task_vector(0, weight, family.base_tensor(weight)) for weight in family.weights]
    assert expert_bytes(family, expert) == sum(each.nbytes for each in vectors if isinstance(each, torch.Tensor))
    factors = [family.task_vector(1, weight, family.base_tensor(weight)) for weight in family.weights]
    assert expert_bytes(family, family.experts[1]) == sum(
        each.left.nbytes + each.right.nbytes for each in factors if isinstance(each, LowRank)
    )


def test_a_dense_change_is_mutated_but_no_adapter(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", dtype=torch.float32)
    family = family_of(tmp_path, base, make_adapter(base, tmp_path / "adapter", seed=1, use_dora=True))
    materialiser = Materialiser(family, Groups(family.weights, "one"), prepare_bases(family, [0, 1]))
    mutation = Mutation(kind="svd", expert=0, seed=3, scale=0.3)
    mutated = replace(expert_genome(0, 2, 1), mutations=(mutation,), shares=np.ones((1, 1)))
    plain = dict(materialiser.tensors(expert_genome(0, 2, 1)))
    changed = {name for name, tensor in materialiser.tensors(mutated) if not torch.equal(tensor, plain[name])}
    assert {weight.name for weight in family.weights if ".q_proj." in weight.name} <= changed
    query = next(weight for weight in family.weights if ".q_proj." in weight.name)
    with pytest.raises(UserError, match=r"cannot be an adapter: expert tuned changes .*q_proj.weight by more than fac"):
        materialiser.low_rank(expert_genome(0, 2, 1), query)


# --- mergekit --------------------------------------------------------------------------------------------------------

MERGED: dict[str, tuple[bool, int, dict[str, Any]]] = {
    "LoRA": (False, VOCABULARY, {}),
    "DoRA": (False, VOCABULARY, {"use_dora": True}),
    "tied factors, which peft would merge twice": (True, VOCABULARY, {"target_modules": ["embed_tokens"], **TIED}),
    "a resized vocabulary": (False, VOCABULARY + 2, {"modules_to_save": ["embed_tokens", "lm_head"]}),
}


@pytest.mark.parametrize(("tied", "rows", "options"), MERGED.values(), ids=MERGED)
def test_mergekit_reads_what_peft_runs(tied: bool, rows: int, options: dict[str, Any], tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", dtype=torch.float32, tied=tied)
    adapter = make_resized(base, tmp_path / "adapter", rows, **options)
    family = family_of(tmp_path, base, adapter, vocabulary="base")
    expert = f"{{model: '{on_base(base, adapter)}', parameters: {{weight: 1.0}}}}"
    text = f"merge_method: linear\nmodels: [{expert}]\ndtype: float32\n"
    materialiser = Materialiser(family, Groups(family.weights, "one"), {})
    wanted = dict(materialiser.tensors(expert_genome(0, 2, 1)))
    merged = dict(merged_tensors(MergekitConfiguration(text), family))
    assert merged.keys() == wanted.keys()
    assert all(torch.equal(merged[name], wanted[name]) for name in wanted)
    assert stock_merges(family, family.experts[0].weights) == (rows == VOCABULARY and not tied)


def test_mergekit_is_not_given_an_adapter_that_peft_would_run_otherwise(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", dtype=torch.float32, tied=True)
    adapter = make_adapter(base, tmp_path / "adapter", seed=1, target_modules=["lm_head"])
    config = tmp_path / "config.yml"
    expert = f"{{model: '{on_base(base, adapter)}', parameters: {{weight: 1.0}}}}"
    config.write_text(f"merge_method: linear\nmodels: [{expert}]\ndtype: float32\n")
    with pytest.raises(UserError, match="different values, but the base ties them"):
        merge_to_disk(config, tmp_path / "out")


def test_the_pickle_of_an_adapter_is_downloaded_where_the_recipe_allows_it() -> None:
    names = ["adapter_model.bin", "adapter_config.json", "training_args.bin", "tokenizer.json"]
    with pytest.raises(UserError, match=r"^adapter user/sql: contains only pickles"):
        needed_files(names, ModelsConfig(), "adapter user/sql", adapter=True)
    wanted = ["adapter_model.bin", "adapter_config.json", "tokenizer.json"]
    assert needed_files(names, ModelsConfig(pickles=True), "adapter user/sql", adapter=True) == wanted
