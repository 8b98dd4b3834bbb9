"""Keys of a configuration that change what the weights compute are reported; all other keys are not."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from cycleqd_merge.errors import UserError
from cycleqd_merge.merging.checks import check_family
from cycleqd_merge.merging.config_differences import config_differences
from tests.architectures import make_architecture
from tests.models import edit_json, make_expert, make_recipe, open_recipe_family


@dataclass(frozen=True)
class Case:
    """An expert's changes to config.json, and the keys that are reported as errors and as notices.

    silent: whether the logits of this tiny model do not show the difference.
    """

    architecture: str
    change: dict[str, Any]
    errors: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    silent: bool = False


def rope(theta: float = 10000.0, kind: str = "default", **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **more}}


THETA, ROPE_TYPE, FACTOR = (f"rope_parameters.{key}" for key in ("rope_theta", "rope_type", "factor"))
YARN = {"original_max_position_embeddings": 64, "factor": 4.0}
CASES = {
    "rope theta": Case("llama", rope(1e6), notices=(THETA,)),
    "rope theta, old key": Case("llama", {"rope_parameters": None, "rope_theta": 1e6}, notices=(THETA,)),
    "linear rope": Case("llama", rope(kind="linear", factor=2.0), notices=(ROPE_TYPE, FACTOR)),
    "linear rope, old key": Case(
        "llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}, notices=(ROPE_TYPE, FACTOR)
    ),
    "yarn": Case(
        "qwen3",
        rope(kind="yarn", **YARN),
        notices=(ROPE_TYPE, *(f"rope_parameters.{key}" for key in sorted(YARN, reverse=True))),
    ),
    "rope per kind of layer": Case(
        "gemma3",
        {
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
                "full_attention": {"rope_type": "default", "rope_theta": 1e6},
            }
        },
        notices=("rope_parameters.sliding_attention.rope_theta",),
    ),
    "part of the rotation": Case(
        "gpt_neox",
        rope(partial_rotary_factor=1.0),
        errors=("rope_parameters.partial_rotary_factor",),
    ),
    "heads": Case(
        "llama",
        {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16},
        errors=("num_attention_heads", "num_key_value_heads", "head_dim"),
    ),
    "heads of gpt2": Case("gpt2", {"n_head": 2}, errors=("n_head",)),
    "activation": Case("llama", {"hidden_act": "gelu"}, errors=("hidden_act",)),
    "activation, another name of it": Case("llama", {"hidden_act": "swish"}),
    "activation, an approximation of it": Case(
        "gpt2", {"activation_function": "gelu"}, notices=("activation_function",)
    ),
    "epsilon, large": Case("llama", {"rms_norm_eps": 1e-2}, errors=("rms_norm_eps",)),
    "epsilon, small": Case("llama", {"rms_norm_eps": 1e-5}, notices=("rms_norm_eps",)),
    "epsilon of gpt2": Case("gpt2", {"layer_norm_epsilon": 1e-6}, notices=("layer_norm_epsilon",)),
    "sliding window": Case("mistral", {"sliding_window": 4}, notices=("sliding_window",)),
    "no sliding window": Case("mistral", {"sliding_window": None}, notices=("sliding_window",)),
    "layer types": Case(
        "gemma3", {"layer_types": ["sliding_attention", "full_attention"]}, notices=("layer_types[1]",)
    ),
    "softcapping": Case(
        "gemma2",
        {"final_logit_softcapping": None, "attn_logit_softcapping": 1.0},
        notices=("final_logit_softcapping", "attn_logit_softcapping"),
    ),
    "query scale": Case("gemma2", {"query_pre_attn_scalar": 4}, errors=("query_pre_attn_scalar",)),
    "multipliers": Case(
        "granite",
        {"embedding_multiplier": 2.0, "logits_scaling": 2.0, "residual_multiplier": 0.5, "attention_multiplier": 0.5},
        errors=("embedding_multiplier", "logits_scaling", "residual_multiplier", "attention_multiplier"),
    ),
    "logit scale": Case("cohere", {"logit_scale": 1.0}, errors=("logit_scale",)),
    "experts per token": Case("mixtral", {"num_experts_per_tok": 1}, notices=("num_experts_per_tok",)),
    "routing": Case(
        "deepseek_v3",
        {"norm_topk_prob": False, "routed_scaling_factor": 1.0, "n_group": 2},
        errors=("routed_scaling_factor", "n_group", "norm_topk_prob"),
    ),
    "parallel residual": Case("gpt_neox", {"use_parallel_residual": False}, errors=("use_parallel_residual",)),
    "attention scale of gpt2": Case(
        "gpt2", {"scale_attn_by_inverse_layer_idx": True}, errors=("scale_attn_by_inverse_layer_idx",)
    ),
    "unknown key": Case("llama", {"mystery": 3}, notices=("mystery",), silent=True),
    "null for a default": Case("mistral", {"head_dim": None}),
    "default written out": Case("llama", {"head_dim": 8, "attention_bias": False, "mlp_bias": False}),
    "old torch_dtype": Case("llama", {"torch_dtype": "float32", "dtype": None}),
    "records and training": Case(
        "llama",
        {
            "_name_or_path": "someone/else",
            "transformers_version": "4.30.0",
            "use_cache": False,
            "attention_dropout": 0.5,
            "initializer_range": 0.1,
            "max_position_embeddings": 1024,
            "pretraining_tp": 2,
            "eos_token_id": [2, 3],
            "pad_token_id": 3,
            "bos_token_id": None,
            "id2label": {"0": "x"},
            "unsloth_version": "2025.1",
            "unsloth_fixed": True,
            "task_specific_params": {"a": 1},
            "temperature": 0.6,
        },
    ),
    "router loss": Case("mixtral", {"router_aux_loss_coef": 0.5, "output_router_logits": False}),
    "architectures": Case("llama", {"architectures": None}),
}


def logits(folder: Path, config: Path) -> torch.Tensor:
    """The logits of the weights in `folder` with the configuration in `config`."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, config=AutoConfig.from_pretrained(config), dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.inference_mode():
        found: torch.Tensor = model(torch.arange(24)[None]).logits
    return found


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_keys_that_change_the_logits_are_reported(case: Case, tmp_path: Path) -> None:
    base = make_architecture(case.architecture, tmp_path / "base")
    expert = make_expert(base, tmp_path / "expert", seed=1)
    edit_json(expert / "config.json", **case.change)
    found = config_differences(AutoConfig.from_pretrained(base), AutoConfig.from_pretrained(expert))
    assert tuple(each.key for each in found if each.error) == case.errors
    assert tuple(each.key for each in found if not each.error) == case.notices
    differ = not torch.allclose(logits(expert, base), logits(expert, expert), rtol=1e-6, atol=1e-6)
    assert differ == (bool(found) and not case.silent)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_differences_have_no_direction(case: Case, tmp_path: Path) -> None:
    base = make_architecture(case.architecture, tmp_path / "base")
    one = AutoConfig.from_pretrained(base)
    edit_json(base / "config.json", **case.change)
    other = AutoConfig.from_pretrained(base)
    there, back = config_differences(one, other), config_differences(other, one)
    assert {(each.key, each.error) for each in there} == {(each.key, each.error) for each in back}


def test_base_and_expert_saved_by_different_versions_are_equal(tmp_path: Path) -> None:
    base = make_architecture("llama", tmp_path / "base")
    llama3 = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    edit_json(base / "config.json", rope_parameters={**llama3, "rope_theta": 500000.0})
    old = json.loads((base / "config.json").read_text())
    del old["rope_parameters"], old["head_dim"], old["mlp_bias"]
    old |= {"rope_theta": 500000.0, "rope_scaling": llama3, "transformers_version": "4.45.0"}
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_text(json.dumps(old))
    assert config_differences(AutoConfig.from_pretrained(base), AutoConfig.from_pretrained(tmp_path / "old")) == []


class Custom(PretrainedConfig):
    """As the configuration of a model with its own code."""

    model_type = "custom"

    def __init__(self, limit: Any = (0.0, float("inf")), shift: float = 0.0, **rest: Any) -> None:
        self.limit, self.shift = limit, shift
        super().__init__(**rest)


@pytest.mark.parametrize(
    ("one", "other", "keys"),
    [
        ({}, {"limit": [0.0, float("inf")]}, []),
        ({"shift": float("nan")}, {"shift": float("nan")}, []),
        ({"shift": float("nan")}, {"shift": 1.0}, ["shift"]),
        ({"shift": 1}, {"shift": 1.0}, []),
        ({}, {"limit": (0.0, 1.0)}, ["limit[1]"]),
        ({}, {"limit": (0.0, float("inf"), 1.0)}, ["limit"]),
        ({"unheard": None}, {}, []),
    ],
)
def test_values_are_compared_as_numbers_and_lists(one: dict[str, Any], other: dict[str, Any], keys: list[str]) -> None:
    found = config_differences(Custom(**one), Custom(**other))
    assert [each.key for each in found if each.error] == keys
    assert len(found) == len(keys)


class Other(PretrainedConfig):
    """As the configuration of the same model in transformers' own code, with one more key."""

    model_type = "custom"

    def __init__(self, limit: Any = (0.0, float("inf")), scale: float = 2.0, **rest: Any) -> None:
        self.limit, self.scale = limit, scale
        super().__init__(**rest)


def test_key_that_only_one_of_two_classes_has_is_a_notice() -> None:
    found = config_differences(Custom(shift=1.0), Other())
    assert [(each.key, each.base, each.expert, each.error) for each in found] == [
        ("shift", "1.0", "not set", False),
        ("scale", "not set", "2.0", False),
    ]
    assert [each.line("one").partition("config.json: ")[2] for each in found] == [
        "shift is not set; the base has 1.0; the child uses the base's value",
        "scale is 2.0; it is not set in the base; the child uses the base's value",
    ]


def test_differences_are_in_the_family_s_problems(tmp_path: Path) -> None:
    base = make_architecture("llama", tmp_path / "base")
    one, two = (make_expert(base, tmp_path / name, seed) for seed, name in enumerate(("one", "two")))
    edit_json(one / "config.json", hidden_act="gelu", **rope(1e6))
    problems = check_family(open_recipe_family(make_recipe(tmp_path, base, {"one": one, "two": two})))
    assert problems.errors == [
        "expert one: config.json: hidden_act is 'gelu'; the base has 'silu', with which the expert's weights compute "
        "something else; choose a different expert"
    ]
    assert problems.notices == [
        "expert one: config.json: rope_parameters.rope_theta is 1000000.0; the base has 10000.0; the child uses the "
        "base's value"
    ]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"architectures": None}, None),
        ({"architectures": []}, None),
        ({"architectures": ["LlamaModel"]}, None),
        (
            {"architectures": ["LlamaForSequenceClassification"]},
            "expert one: architecture ['LlamaForSequenceClassification'], the base has ['LlamaForCausalLM']",
        ),
        (
            {"architectures": None, "model_type": "mistral"},
            "expert one: architecture ['MistralForCausalLM'], the base has ['LlamaForCausalLM']",
        ),
        (
            {"model_type": "mistral"},
            "expert one: model type 'mistral', the base has 'llama'",
        ),
    ],
)
def test_architectures(change: dict[str, Any], line: str | None, tmp_path: Path) -> None:
    base = make_architecture("llama", tmp_path / "base")
    one, two = (make_expert(base, tmp_path / name, seed) for seed, name in enumerate(("one", "two")))
    edit_json(one / "config.json", **change)
    problems = check_family(open_recipe_family(make_recipe(tmp_path, base, {"one": one, "two": two})))
    assert problems.errors == ([] if line is None else [line])


@pytest.mark.parametrize("content", [None, "", "[]", "{", '{"model_type": "unheard"}', "{}"])
def test_expert_without_an_intact_configuration_is_refused_in_one_line(content: str | None, tmp_path: Path) -> None:
    base = make_architecture("llama", tmp_path / "base")
    one, two = (make_expert(base, tmp_path / name, seed) for seed, name in enumerate(("one", "two")))
    (one / "config.json").unlink()
    if content is not None:
        (one / "config.json").write_text(content)
    with pytest.raises(UserError) as caught:
        open_recipe_family(make_recipe(tmp_path, base, {"one": one, "two": two}))
    what = "no config.json in" if content is None else "cannot be opened"
    assert str(caught.value).startswith(f"model {one}: {what}")
    assert "\n" not in str(caught.value)
