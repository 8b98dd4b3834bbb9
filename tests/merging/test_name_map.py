"""The exchange in place equals what transformers loads, bit for bit, and its inverse is what the checkpoint stores."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from mergekit.common import ModelReference
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from cycleqd_merge.config.engines import TransformersEngineConfig
from cycleqd_merge.config.recipe import ModelsConfig, PinnedModels
from cycleqd_merge.evaluation.engines.transformers_engine import TransformersEngine
from cycleqd_merge.evolution.genome import expert_genome
from cycleqd_merge.merging.adapter import LowRank
from cycleqd_merge.merging.candidates import write_candidate
from cycleqd_merge.merging.checkpoint import Checkpoint
from cycleqd_merge.merging.checks import check_family
from cycleqd_merge.merging.family import ModelFamily, open_expert
from cycleqd_merge.merging.groups import Groups
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.name_map import build_name_map
from cycleqd_merge.outputs.verify import verify_checkpoint
from tests.architectures import ARCHITECTURES, make_architecture
from tests.models import make_adapter, make_expert, on_base, read_tensors

TRUSTED = ModelsConfig(trust_remote_code=True)
State = dict[str, torch.Tensor]


def opened(folder: Path) -> Checkpoint:
    return Checkpoint(ModelReference.parse(str(folder)), TRUSTED)


def loaded(folder: Path, **options: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, **{"trust_remote_code": True, "dtype": "auto", **options})


def stored_tensors(base: Checkpoint) -> Mapping[str, Any]:
    return dict(zip(base.names, base.weights, strict=True))


def assert_equal(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name


def family_of(base: Path, *experts: Path) -> ModelFamily:
    """A family of full models and adapters."""
    checkpoint = opened(base)
    models = PinnedModels(str(base), {path.name: reference(base, path) for path in experts}, TRUSTED)
    return ModelFamily(checkpoint, tuple(open_expert(models, path.name, checkpoint) for path in experts), TRUSTED)


def reference(base: Path, expert: Path) -> str:
    return on_base(base, expert) if (expert / "adapter_config.json").is_file() else str(expert)


def exchanged(base: Path, other: Path) -> State:
    """The state of the base's module after the exchange with all tensors of another checkpoint."""
    model = loaded(base)
    name_map, state = build_name_map(model, stored_tensors(opened(base))), model.state_dict()
    for name, tensor in read_tensors(other).items():
        name_map.copy_into(state, name, tensor)
    for name, tensor in read_tensors(other).items():
        assert torch.equal(name_map.read(state, name).to(tensor.dtype), tensor), name
    return state


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_exchange_in_place_equals_a_load_and_the_inverse_gives_the_stored_tensors(name: str, tmp_path: Path) -> None:
    base = make_architecture(name, tmp_path / "base")
    other = make_expert(base, tmp_path / "other", seed=1)
    assert_equal(exchanged(base, other), loaded(other).state_dict())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_export_loads_as_the_engine_s_model_with_the_base_s_names(name: str, tmp_path: Path) -> None:
    base = make_architecture(name, tmp_path / "base")
    experts = [make_expert(base, tmp_path / f"expert-{seed}", seed) for seed in (1, 2)]
    family = family_of(base, *experts)
    assert check_family(family).errors == []
    materialiser = Materialiser(family, Groups(family.weights, "one"), {})
    genome = expert_genome(0, 2, 1)
    write_candidate(genome, materialiser, tmp_path / "out")
    if name == "custom_code":
        for code in base.glob("*.py"):
            (tmp_path / "out" / code.name).write_text(code.read_text())
        config = tmp_path / "out" / "config.json"
        config.write_text((base / "config.json").read_text())
    assert read_tensors(tmp_path / "out").keys() == read_tensors(base).keys()
    model, report = loaded(tmp_path / "out", output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    engine = TransformersEngine(TransformersEngineConfig(device="cpu"), materialiser)
    engine.load(genome)
    assert_equal(engine.model.state_dict(), model.state_dict())
    engine.close()
    verify_checkpoint(genome, materialiser, tmp_path / "out")


STACKED = {"target_modules": [], "target_parameters": ["experts.gate_up_proj", "experts.down_proj"]}
ADAPTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "attention": ("mixtral", {"target_modules": ["q_proj", "o_proj"]}),
    "router": ("mixtral", {"target_modules": ["q_proj"], "target_parameters": ["mlp.gate.weight"]}),
    "stacked": ("mixtral", STACKED),
    "stacked, only one": ("mixtral", {**STACKED, "target_parameters": ["experts.down_proj"]}),
    "stacked, patterns": (
        "qwen3_moe",
        {
            **STACKED,
            "use_rslora": True,
            "rank_pattern": {"experts.gate_up_proj": 3},
            "alpha_pattern": {"experts.down_proj": 2, "layers.1.mlp.experts.gate_up_proj": 5},
        },
    ),
    "stacked and attention": ("olmoe", {**STACKED, "target_modules": ["v_proj"]}),
    "stacked and shared experts": (
        "deepseek_v3",
        {**STACKED, "target_modules": ["kv_b_proj", "q_a_proj"]},
    ),
    "all linear layers": ("qwen3_moe", {}),
    "layers of each expert": ("qwen3_moe", {"target_modules": ["gate_proj", "up_proj", "down_proj", "q_proj"]}),
    "layers of each expert, Mixtral": ("mixtral", {"target_modules": ["w1", "w2", "w3"], "lora_alpha": 3}),
    "a norm saved": ("mixtral", {"target_modules": ["q_proj"], "modules_to_save": ["norm"]}),
    "output head": ("gpt_neox", {"target_modules": ["lm_head", "query_key_value"]}),
    "output head saved": ("gpt_neox", {"target_modules": ["query_key_value"], "modules_to_save": ["lm_head"]}),
    "output head, pattern": ("gpt_neox", {"target_modules": ["lm_head"], "alpha_pattern": {"lm_head": 3}}),
}


def merged_by_peft(base: Path, adapter: Path) -> State:
    """The stored tensors of the base with the adapter merged by peft, float32."""
    model = loaded(base, dtype=torch.float32)
    name_map = build_name_map(model, stored_tensors(opened(base)))
    state = peft.PeftModel.from_pretrained(model, adapter).merge_and_unload().state_dict()
    return {name: name_map.read(state, name) for name in name_map.parts}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", ADAPTERS.values(), ids=ADAPTERS)
def test_an_adapter_on_the_module_s_names_changes_the_stored_tensors_as_peft_does(
    case: tuple[str, dict[str, Any]], tmp_path: Path
) -> None:
    architecture, options = case
    base = make_architecture(architecture, tmp_path / "base", torch.float32)
    adapter = make_adapter(base, tmp_path / "adapter", seed=1, **options)
    family = family_of(base, adapter)
    wanted, plain, changed = merged_by_peft(base, adapter), read_tensors(base), 0
    assert check_family(family).errors == []
    for weight in family.weights:
        tensor = family.base_tensor(weight)
        vector = family.task_vector(0, weight, tensor)
        if vector is not None:
            changed += 1
            tensor = tensor + (vector.dense() if isinstance(vector, LowRank) else vector)
        torch.testing.assert_close(tensor, wanted[weight.name], rtol=1e-6, atol=1e-6, msg=weight.name)
    assert changed == sum(not torch.equal(plain[name], wanted[name]) for name in plain) > 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("architecture", ["mixtral", "qwen3_moe"])
def test_an_adapter_on_each_expert_s_own_layers_keeps_working(architecture: str, tmp_path: Path) -> None:
    """As peft saved them with transformers 4, when every expert had its own linear layers."""
    base = make_architecture(architecture, tmp_path / "base", torch.float32)
    adapter = make_adapter(base, tmp_path / "adapter", seed=1, target_modules=["q_proj"])
    config = tmp_path / "adapter" / "adapter_config.json"
    matrices = [name for name in read_tensors(base) if ".experts." in name]
    tensors: State = {}
    for number, name in enumerate(matrices):
        rows, columns = read_tensors(base)[name].shape
        module = "base_model.model." + name.removesuffix(".weight")
        tensors[f"{module}.lora_A.weight"] = torch.randn(4, columns, generator=torch.Generator().manual_seed(number))
        tensors[f"{module}.lora_B.weight"] = torch.randn(rows, 4, generator=torch.Generator().manual_seed(-1 - number))
    save_file(tensors, adapter / "adapter_model.safetensors")
    leaves = sorted({name.split(".")[-2] for name in matrices})
    config.write_text(json.dumps(json.loads(config.read_text()) | {"target_modules": leaves}))
    family = family_of(base, adapter)
    assert check_family(family).errors == []
    for weight in family.weights:
        vector = family.task_vector(0, weight, family.base_tensor(weight))
        if weight.name not in matrices:
            assert vector is None
            continue
        module = "base_model.model." + weight.name.removesuffix(".weight")
        assert isinstance(vector, LowRank)
        wanted = 2 * tensors[f"{module}.lora_B.weight"] @ tensors[f"{module}.lora_A.weight"]
        torch.testing.assert_close(vector.dense(), wanted)


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_on_stacks_that_the_checkpoint_stores_is_refused(tmp_path: Path) -> None:
    base = make_architecture("gpt_oss", tmp_path / "base", torch.float32)
    adapter = make_adapter(base, tmp_path / "adapter", seed=1, **STACKED)
    (error,) = check_family(family_of(base, adapter)).errors
    assert "in the base is not a matrix; merge the adapter into a full checkpoint" in error
