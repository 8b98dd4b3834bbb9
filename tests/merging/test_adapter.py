"""A LoRA adapter's task vectors are what peft itself merges into the base."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from cycleqd_merge.errors import UserError
from cycleqd_merge.merging.adapter import LowRank
from cycleqd_merge.merging.checks import check_family
from cycleqd_merge.merging.family import ModelFamily
from tests.models import (
    Architecture,
    edit_json,
    make_adapter,
    make_base,
    make_recipe,
    on_base,
    open_recipe_family,
    read_tensors,
    write_tensors,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # peft warns about such adapters


@dataclass(frozen=True)
class Case:
    """One way to train an adapter. changed: suffixes of the names of some tensors that it must change."""

    architecture: Architecture
    changed: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)
    tied: bool = False


CASES = {
    "plain": Case("llama", ("q_proj.weight", "down_proj.weight")),
    "alpha": Case("llama", ("q_proj.weight",), {"lora_alpha": 24}),
    "rank-stabilised": Case("llama", ("q_proj.weight",), {"lora_alpha": 16, "use_rslora": True}),
    "patterns": Case(
        "llama",
        ("q_proj.weight", "up_proj.weight"),
        {
            "rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 6},
            "alpha_pattern": {"layers.0.self_attn.q_proj": 3, "mlp": 5, "^model.layers.1.mlp.up_proj": 7},
        },
    ),
    "patterns, rank-stabilised": Case(
        "qwen2", ("v_proj.weight",), {"rank_pattern": {"v_proj": 9}, "alpha_pattern": {"v_proj": 2}, "use_rslora": True}
    ),
    "rank above the matrix": Case("llama", ("k_proj.weight",), {"r": 20}),
    "Conv1D": Case("gpt2", ("c_attn.weight", "attn.c_proj.weight", "mlp.c_proj.weight"), tied=True),
    "Conv1D and embedding": Case("gpt2", ("c_attn.weight", "wte.weight"), {"target_modules": ["c_attn", "wte"]}),
    "embedding": Case("llama", ("embed_tokens.weight",), {"target_modules": ["embed_tokens", "q_proj"]}),
    "output head": Case("llama", ("lm_head.weight",), {"target_modules": ["lm_head", "q_proj"]}),
    "modules to save": Case("llama", ("lm_head.weight", "q_proj.weight"), {"modules_to_save": ["lm_head"]}),
    "norm to save": Case("qwen2", ("model.norm.weight",), {"modules_to_save": ["norm"], "target_modules": ["q_proj"]}),
    "all biases": Case("qwen2", ("q_proj.bias",), {"bias": "all"}),
    "all biases, Conv1D": Case("gpt2", ("ln_f.bias", "c_attn.bias", "c_attn.weight"), {"bias": "all"}, True),
    "biases of adapted layers": Case("qwen2", ("q_proj.bias",), {"bias": "lora_only", "target_modules": ["q_proj"]}),
    "bias of the factor": Case(
        "qwen2", ("q_proj.bias", "q_proj.weight"), {"lora_bias": True, "target_modules": ["q_proj"], "use_rslora": True}
    ),
}


def open_with_adapter(folder: Path, case: Case) -> tuple[ModelFamily, Path, Path]:
    """A float32 base, an adapter on it, and a family of which the adapter is the first expert."""
    base = make_base(folder / "base", case.architecture, torch.float32, tied=case.tied)
    adapter = make_adapter(base, folder / "adapter", seed=1, **case.options)
    other = make_adapter(base, folder / "other", seed=2)
    recipe = make_recipe(folder, base, {"tuned": on_base(base, adapter), "other": on_base(base, other)})
    return open_recipe_family(recipe), base, adapter


def merged_by_peft(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    merged: dict[str, torch.Tensor] = peft.PeftModel.from_pretrained(model, adapter).merge_and_unload().state_dict()
    return merged


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_base_plus_task_vector_is_what_peft_merges(case: Case, tmp_path: Path) -> None:
    family, base, adapter = open_with_adapter(tmp_path, case)
    wanted = merged_by_peft(base, adapter)
    assert check_family(family).errors == []
    changed = set()
    for weight in family.weights:
        tensor = family.base_tensor(weight)
        vector = family.task_vector(0, weight, tensor)
        if vector is not None:
            changed.add(weight.name)
            tensor = tensor + (vector.dense() if isinstance(vector, LowRank) else vector)
        torch.testing.assert_close(tensor, wanted[weight.name], rtol=1e-6, atol=1e-6, msg=weight.name)
    for ending in case.changed:
        assert any(name.endswith(ending) for name in changed), ending
    assert changed == {name for name, tensor in read_tensors(base).items() if not torch.equal(tensor, wanted[name])}


@pytest.mark.parametrize("name", ["plain", "Conv1D and embedding", "embedding", "output head"])
def test_matrices_of_an_adapter_stay_factors_of_its_rank(name: str, tmp_path: Path) -> None:
    family, _, _ = open_with_adapter(tmp_path, CASES[name])
    for weight in family.weights:
        vector = family.task_vector(0, weight, family.base_tensor(weight))
        if vector is not None:
            assert isinstance(vector, LowRank)
            assert vector.left.shape == (weight.shape[0], 4)
            assert vector.right.shape == (4, weight.shape[1])


def test_a_change_of_the_embedding_besides_its_factors_is_included(tmp_path: Path) -> None:
    """peft also saves an adapted embedding's base layer: if it has changed, the change belongs to the adapter."""
    family, base, adapter = open_with_adapter(tmp_path, CASES["embedding"])
    tensors = load_file(adapter / "adapter_model.safetensors")
    tensors["base_model.model.model.embed_tokens.base_layer.weight"][7] += 1.0
    save_file(tensors, adapter / "adapter_model.safetensors")
    family = open_recipe_family(
        make_recipe(tmp_path, base, {name: on_base(base, adapter) for name in ("tuned", "other")})
    )
    wanted = merged_by_peft(base, adapter)["model.embed_tokens.weight"]
    weight = next(weight for weight in family.weights if weight.name == "model.embed_tokens.weight")
    tensor = family.base_tensor(weight)
    vector = family.task_vector(0, weight, tensor)
    assert isinstance(vector, torch.Tensor)
    torch.testing.assert_close(tensor + vector, wanted, rtol=1e-6, atol=1e-6)


def test_an_embedding_of_which_the_base_stores_a_tied_copy_takes_its_adapter(tmp_path: Path) -> None:
    options = {"target_modules": ["embed_tokens", "q_proj"], "ensure_weight_tying": True}
    _, base, adapter = open_with_adapter(tmp_path, Case("llama", (), options, tied=True))
    tensors = read_tensors(base)
    write_tensors(base, {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()})
    family = open_recipe_family(
        make_recipe(tmp_path, base, {name: on_base(base, adapter) for name in ("tuned", "other")})
    )
    assert check_family(family).errors == []
    assert "lm_head.weight" not in [weight.name for weight in family.weights]
    weight = next(weight for weight in family.weights if weight.name == "model.embed_tokens.weight")
    assert isinstance(family.task_vector(0, weight, family.base_tensor(weight)), LowRank)


REFUSED = {
    "PiSSA": ({"init_lora_weights": "pissa"}, "pissa"),
    "OLoRA": ({"init_lora_weights": "olora"}, "olora"),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
def test_adapter_without_a_low_rank_task_vector_is_refused(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=f"^adapter .*adapter: .*{message}"):
        open_with_adapter(tmp_path, Case("llama", (), options))


def test_other_kinds_of_adapters_are_refused_by_name(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", dtype=torch.float32)
    config = peft.IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj"], feedforward_modules=[])
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    model.save_pretrained(str(tmp_path / "ia3"))
    recipe = make_recipe(tmp_path, base, {name: on_base(base, tmp_path / "ia3") for name in ("one", "two")})
    with pytest.raises(UserError, match="IA3 has no low-rank task vector"):
        open_recipe_family(recipe)


@pytest.fixture
def adapter_files(tmp_path: Path) -> tuple[Path, Path]:
    base = make_base(tmp_path / "base", dtype=torch.float32)
    return base, make_adapter(base, tmp_path / "adapter", seed=1)


def refusal(base: Path, adapter: Path) -> str:
    """The error, of one line, of opening a family with this adapter."""
    recipe = make_recipe(base.parent, base, {name: on_base(base, adapter) for name in ("one", "two")})
    with pytest.raises(UserError) as caught:
        open_recipe_family(recipe)
    (line,) = str(caught.value).splitlines()
    return line


def test_adapter_without_safetensors_is_refused(adapter_files: tuple[Path, Path]) -> None:
    base, adapter = adapter_files
    (adapter / "adapter_model.safetensors").unlink()
    assert refusal(base, adapter) == f"adapter {adapter}: no adapter_model.safetensors in {adapter}"


def test_truncated_adapter_is_refused(adapter_files: tuple[Path, Path]) -> None:
    base, adapter = adapter_files
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert refusal(base, adapter).startswith(f"adapter {adapter}: cannot be opened: ")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_adapter_with_a_broken_configuration_is_refused(adapter_files: tuple[Path, Path], text: str) -> None:
    base, adapter = adapter_files
    (adapter / "adapter_config.json").write_text(text)
    assert refusal(base, adapter).startswith(f"adapter {adapter}: ")


def test_missing_adapter_is_refused(adapter_files: tuple[Path, Path]) -> None:
    base, adapter = adapter_files
    assert refusal(base, adapter.parent / "nowhere").startswith(f"adapter {adapter.parent / 'nowhere'}: ")


def test_digest_follows_weights_and_configuration(adapter_files: tuple[Path, Path]) -> None:
    base, adapter = adapter_files
    recipe = make_recipe(base.parent, base, {name: on_base(base, adapter) for name in ("one", "two")})
    before = open_recipe_family(recipe).experts[0].digest
    assert open_recipe_family(recipe).experts[0].digest == before
    edit_json(adapter / "adapter_config.json", lora_alpha=99)
    assert open_recipe_family(recipe).experts[0].digest != before
