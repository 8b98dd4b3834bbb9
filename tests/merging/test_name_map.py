"""The exchange in place equals what transformers loads, bit for bit, and its inverse is what the checkpoint stores."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers.conversion_mapping as conversion_mapping
import transformers.core_model_loading as loading
from mergekit.common import ModelReference
from safetensors.torch import save_file
from transformers.core_model_loading import WeightConverter, WeightRenaming

from cycleqd_merge.config.engines import TransformersEngineConfig
from cycleqd_merge.config.evolution import EvolutionConfig
from cycleqd_merge.config.recipe import ModelsConfig, PinnedModels
from cycleqd_merge.errors import ModelError
from cycleqd_merge.evaluation.engines.transformers_engine import TransformersEngine
from cycleqd_merge.evolution.candidate import MergekitConfiguration
from cycleqd_merge.evolution.genome import Mutation, level_genome, mutate
from cycleqd_merge.merging.adapter import LowRank
from cycleqd_merge.merging.candidates import candidate_configuration, write_candidate
from cycleqd_merge.merging.checkpoint import Checkpoint
from cycleqd_merge.merging.checks import check_family
from cycleqd_merge.merging.family import ModelFamily, open_expert
from cycleqd_merge.merging.groups import Groups
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.mergekit_run import merge_to_disk, merged_tensors
from cycleqd_merge.merging.name_map import build_name_map
from cycleqd_merge.outputs.adapter import write_adapter
from cycleqd_merge.outputs.verify import verify_adapter, verify_checkpoint
from tests.architectures import ARCHITECTURES, VISION_ARCHITECTURES, make_architecture
from tests.models import make_adapter, make_expert, on_base, read_tensors, write_tensors

TRUSTED = ModelsConfig(trust_remote_code=True)
State = dict[str, torch.Tensor]


def opened(folder: Path) -> Checkpoint:
    return Checkpoint(ModelReference.parse(str(folder)), TRUSTED)


def loaded(folder: Path, **options: Any) -> Any:
    return opened(folder).auto_class.from_pretrained(folder, **{"trust_remote_code": True, "dtype": "auto", **options})


def stored_tensors(base: Checkpoint) -> Mapping[str, Any]:
    return {base.stored_name(weight) or weight.name: weight for weight in base.weights}


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


@pytest.mark.parametrize("name", [*ARCHITECTURES, *VISION_ARCHITECTURES])
def test_an_exchange_in_place_equals_a_load_and_the_inverse_gives_the_stored_tensors(name: str, tmp_path: Path) -> None:
    base = make_architecture(name, tmp_path / "base")
    other = make_expert(base, tmp_path / "other", seed=1)
    assert_equal(exchanged(base, other), loaded(other).state_dict())


def assert_exported(base: Path, experts: Sequence[Path], out: Path) -> None:
    """Check that an export has the base's names, and that transformers loads it as the engine's model, bit for bit."""
    family = family_of(base, *experts)
    assert check_family(family).errors == []
    materialiser = Materialiser(family, Groups(family.weights, "one"), {})
    genome = mutate(level_genome(0.5, 2, 1), Mutation("gaussian", None, seed=7, scale=0.01))
    write_candidate(genome, materialiser, out)
    assert read_tensors(out).keys() == read_tensors(base).keys()
    model, report = loaded(out, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    engine = TransformersEngine(TransformersEngineConfig(device="cpu"), materialiser)
    engine.load(genome)
    assert_equal(engine.model.state_dict(), model.state_dict())
    engine.close()
    verify_checkpoint(genome, materialiser, out)


@pytest.mark.parametrize("name", [*ARCHITECTURES, *VISION_ARCHITECTURES])
def test_an_export_loads_as_the_engine_s_model_with_the_base_s_names(name: str, tmp_path: Path) -> None:
    base = make_architecture(name, tmp_path / "base")
    assert_exported(base, [make_expert(base, tmp_path / f"expert-{seed}", seed) for seed in (1, 2)], tmp_path / "out")


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
    "stacked and latent attention": (
        "deepseek_v3",
        {**STACKED, "target_modules": ["kv_b_proj", "q_a_proj"]},
    ),
    "all linear layers": ("qwen3_moe", {}),
    "layers of each expert": ("qwen3_moe", {"target_modules": ["gate_proj", "up_proj", "down_proj", "q_proj"]}),
    "layers of each expert, Mixtral": ("mixtral", {"target_modules": ["w1", "w2", "w3"], "lora_alpha": 3}),
    "a norm saved": ("mixtral", {"target_modules": ["q_proj"], "modules_to_save": ["norm"]}),
    "output head": ("gpt_neox", {"target_modules": ["lm_head", "query_key_value"]}),
    "output head saved": ("gpt_neox", {"target_modules": ["query_key_value"], "modules_to_save": ["lm_head"]}),
    "language and vision": ("gemma3_vision", {"target_modules": ["q_proj", "fc1"], "alpha_pattern": {"fc1": 3}}),
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


def change_stored(folder: Path, change: Callable[[State], State]) -> Path:
    write_tensors(folder, change(read_tensors(folder)))
    return folder


def fused_attention(tensors: State) -> State:
    """Queries, keys and values in one stored tensor."""
    found = dict(tensors)
    for layer in range(2):
        prefix = f"model.layers.{layer}.self_attn."
        parts = [found.pop(f"{prefix}{name}_proj.weight") for name in "qkv"]
        found[f"{prefix}qkv_proj.weight"] = torch.cat(parts)
    return found


def renamed(
    old: str, new: str, value: Callable[[torch.Tensor], torch.Tensor] = torch.clone
) -> Callable[[State], State]:
    return lambda tensors: {
        name.replace(old, new): value(tensor) if old in name else tensor for name, tensor in tensors.items()
    }


def halves(tensors: State) -> State:
    """The down projection in two stored tensors, concatenated along its inputs."""
    found = dict(tensors)
    for layer in range(2):
        prefix = f"model.layers.{layer}.mlp."
        for number, part in enumerate(found.pop(f"{prefix}down_proj.weight").chunk(2, dim=1)):
            found[f"{prefix}part{number}.weight"] = part
    return found


QKV = [f"self_attn.{name}_proj.weight" for name in "qkv"]
CONVERSIONS: dict[str, tuple[Callable[[State], State], list[Any]]] = {
    "a norm renamed": (
        renamed("input_layernorm", "ln_1"),
        [WeightRenaming("ln_1.", "input_layernorm.")],
    ),
    "split": (fused_attention, [WeightConverter("self_attn.qkv_proj.weight", QKV, [loading.Split(dim=0)])]),
    "chunked": (
        lambda tensors: {
            **{name: tensor for name, tensor in tensors.items() if "gate_proj" not in name and "up_proj" not in name},
            **{
                f"model.layers.{n}.mlp.both.weight": torch.cat(
                    [tensors[f"model.layers.{n}.mlp.{name}_proj.weight"] for name in ("gate", "up")]
                )
                for n in range(2)
            },
        },
        [WeightConverter("mlp.both.weight", ["mlp.gate_proj.weight", "mlp.up_proj.weight"], [loading.Chunk(dim=0)])],
    ),
    "concatenated": (
        halves,
        [
            WeightConverter(
                ["mlp.part0.weight", "mlp.part1.weight"], "mlp.down_proj.weight", [loading.Concatenate(dim=1)]
            )
        ],
    ),
    "transposed": (
        renamed("o_proj.weight", "o_proj_t.weight", lambda tensor: tensor.T.contiguous()),
        [WeightConverter("o_proj_t.weight", "o_proj.weight", [loading.Transpose(0, 1)])],
    ),
    "transposed where needed": (
        renamed("down_proj.weight", "down_t.weight", lambda tensor: tensor.T.contiguous()),
        [WeightConverter("down_t.weight", "down_proj.weight", [loading.Transpose(0, 1, check_dims=True)])],
    ),
}


@pytest.fixture
def convert(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[Any]], None]:
    """Lets transformers convert tensors of Llama on load, in both of its ways to ask for conversions."""

    def register(conversions: list[Any]) -> None:
        conversion_mapping.get_checkpoint_conversion_mapping("llama")  # fills the cache
        cache = conversion_mapping._checkpoint_conversion_mapping_cache
        monkeypatch.setitem(cache, "llama", conversions)

    return register


@pytest.mark.parametrize("case", CONVERSIONS.values(), ids=CONVERSIONS)
def test_each_kind_of_conversion_is_followed(
    case: tuple[Callable[[State], State], list[Any]], convert: Callable[[list[Any]], None], tmp_path: Path
) -> None:
    change, conversions = case
    base = make_architecture("llama", tmp_path / "base")
    other = make_expert(base, tmp_path / "other", seed=1)
    plain = loaded(other).state_dict()
    convert(conversions)
    change_stored(base, change)
    change_stored(other, change)
    state = exchanged(base, other)
    assert_equal(state, loaded(other).state_dict())
    assert_equal(state, plain)


REFUSED: dict[str, tuple[Callable[[State], State], list[Any], str]] = {
    "values are permuted": (
        lambda tensors: tensors,
        [WeightConverter("q_proj.weight", "q_proj.weight", [loading.PermuteForRope()])],
        r"tensor model.layers.0.self_attn.q_proj.weight: transformers converts it on load \(PermuteForRope: .*\), "
        "which cannot be done in place; this checkpoint cannot be merged",
    ),
    "a matrix without a place": (
        lambda tensors: {**tensors, "extra.weight": torch.ones(3, 3)},
        [],
        "tensor extra.weight is not in transformers' LlamaForCausalLM; remove it",
    ),
    "vectors without a place": (
        renamed("input_layernorm", "ln_1"),
        [],
        r"tensor model.layers.0.ln_1.weight is not in transformers' LlamaForCausalLM \(and 1 more\); remove it",
    ),
    "names with a prefix": (
        lambda tensors: {f"_orig_mod.module.{name}": tensor for name, tensor in tensors.items()},
        [],
        "its tensor names begin with '_orig_mod.module.', so transformers does not load them; rename the tensors",
    ),
    "a tensor missing": (
        lambda tensors: {name: tensor for name, tensor in tensors.items() if name != "model.norm.weight"},
        [],
        "tensor model.norm.weight is missing: transformers' LlamaForCausalLM would fill it with random values",
    ),
    "a tensor of a fused one missing": (
        lambda tensors: {name: value for name, value in halves(tensors).items() if "1.mlp.part0" not in name},
        [WeightConverter(["mlp.part0.weight", "mlp.part1.weight"], "mlp.down_proj.weight", [loading.Concatenate(1)])],
        r"tensor model.layers.1.mlp.part1.weight makes model.layers.1.mlp.down_proj.weight of shape \(32, 24\); its "
        r"config.json requires \(32, 48\)",
    ),
    "other shapes than its configuration": (
        lambda tensors: {**tensors, "lm_head.weight": torch.ones(7, 32)},
        [],
        r"tensor lm_head.weight makes lm_head.weight of shape \(7, 32\); its config.json requires \(\d+, 32\)",
    ),
    "two names for one tensor": (
        lambda tensors: {**tensors, "model.layers.0.ln_1.weight": torch.ones(32)},
        [WeightRenaming("ln_1.", "input_layernorm.")],
        "tensors model.layers.0.input_layernorm.weight and model.layers.0.ln_1.weight are the same parameter",
    ),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_exchanged_is_refused_in_one_line(
    case: tuple[Callable[[State], State], list[Any], str], convert: Callable[[list[Any]], None], tmp_path: Path
) -> None:
    change, conversions, line = case
    base = change_stored(make_architecture("llama", tmp_path / "base"), change)
    experts = [make_expert(base, tmp_path / f"expert-{seed}", seed) for seed in (1, 2)]
    convert(conversions)
    errors = [error for error in check_family(family_of(base, *experts)).errors if error.startswith("base: ")]
    assert len(errors) == 1
    assert re.match("base: " + line, errors[0])
    assert "\n" not in errors[0]


BUFFERS = {
    "llama": {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)},
    "gpt2": {
        "transformer.h.0.attn.bias": torch.ones(1, 1, 8, 8),
        "transformer.h.0.attn.masked_bias": torch.tensor(-1e4),
    },
    "gpt_neox": {
        "gpt_neox.layers.0.attention.bias": torch.ones(1, 1, 8, 8, dtype=torch.bool),
        "gpt_neox.layers.0.attention.masked_bias": torch.tensor(-1e9),
        "gpt_neox.layers.0.attention.rotary_emb.inv_freq": torch.ones(4),
    },
}


@pytest.mark.parametrize("name", BUFFERS)
def test_buffers_that_transformers_computes_have_no_place(name: str, tmp_path: Path) -> None:
    base = make_architecture(name, tmp_path / "base")
    other = make_expert(base, tmp_path / "other", seed=1)
    for folder in (base, other):
        change_stored(folder, lambda tensors: tensors | BUFFERS[name])
    checkpoint = opened(base)
    assert set(checkpoint.names) - set(checkpoint.name_map.parts) == BUFFERS[name].keys()
    model = loaded(base)
    name_map, state = build_name_map(model, stored_tensors(checkpoint)), model.state_dict()
    for stored, tensor in read_tensors(other).items():
        name_map.copy_into(state, stored, tensor)
    assert_equal(state, loaded(other).state_dict())


def test_deepseek_s_prediction_layers_are_ignored_as_transformers_does(tmp_path: Path) -> None:
    base = make_architecture("deepseek_v3", tmp_path / "base")
    extra = {"model.layers.61.eh_proj.weight": torch.ones(4, 4)}
    change_stored(base, lambda tensors: tensors | extra)
    checkpoint = opened(base)
    assert set(checkpoint.names) - set(checkpoint.name_map.parts) == extra.keys()


LINEAR = """merge_method: linear
models:
  - {{model: {first}, parameters: {{weight: 0.25}}}}
  - {{model: {second}, parameters: {{weight: 0.75}}}}
dtype: float32
out_dtype: bfloat16
"""


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "olmoe", "gpt_neox", "mamba2"])
def test_a_mergekit_configuration_gives_the_tensors_that_the_checkpoint_stores(name: str, tmp_path: Path) -> None:
    base = make_architecture(name, tmp_path / "base")
    first, second = (make_expert(base, tmp_path / f"expert-{seed}", seed) for seed in (1, 2))
    family = family_of(base, first, second)
    candidate = MergekitConfiguration(LINEAR.format(first=first, second=second))
    found = dict(merged_tensors(candidate, family))
    one, other = read_tensors(first), read_tensors(second)
    assert found.keys() == one.keys()
    for stored, tensor in found.items():
        wanted = (0.25 * one[stored].float() + 0.75 * other[stored].float()).to(torch.bfloat16)
        torch.testing.assert_close(tensor, wanted, msg=stored)
    materialiser = Materialiser(family, Groups(family.weights, "one"), {})
    write_candidate(candidate, materialiser, tmp_path / "out")
    assert_equal(read_tensors(tmp_path / "out"), found)
    verify_checkpoint(candidate, materialiser, tmp_path / "out")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", ["attention", "router", "output head"])
def test_a_merge_of_adapters_is_written_with_the_module_s_names(case: str, tmp_path: Path) -> None:
    architecture, options = ADAPTERS[case]
    base = make_architecture(architecture, tmp_path / "base", torch.float32)
    adapters = [make_adapter(base, tmp_path / f"adapter-{seed}", seed, **options) for seed in (1, 2)]
    family = family_of(base, *adapters)
    materialiser = Materialiser(family, Groups(family.weights, "one"), {})
    genome = level_genome(0.5, 2, 1)
    write_adapter(genome, materialiser, tmp_path / "out", {}, partial(verify_adapter, genome, materialiser))


@pytest.mark.filterwarnings("ignore")
def test_a_merge_of_adapters_on_stacked_experts_cannot_be_an_adapter(tmp_path: Path) -> None:
    base = make_architecture("mixtral", tmp_path / "base", torch.float32)
    adapters = [make_adapter(base, tmp_path / f"adapter-{seed}", seed, **STACKED) for seed in (1, 2)]
    family = family_of(base, *adapters)
    materialiser = Materialiser(family, Groups(family.weights, "one"), {})
    with pytest.raises(ModelError, match="is not a layer of its own in transformers; export it as a checkpoint"):
        write_adapter(level_genome(0.5, 2, 1), materialiser, tmp_path / "out", {}, print)


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "olmoe"])
def test_a_mutated_child_is_rebuilt_from_its_configuration(name: str, tmp_path: Path) -> None:
    base = make_architecture(name, tmp_path / "base")
    family = family_of(base, *(make_expert(base, tmp_path / f"expert-{seed}", seed) for seed in (1, 2)))
    materialiser = Materialiser(family, Groups(family.weights, "one"), {})
    child = mutate(level_genome(0.5, 2, 1), Mutation("gaussian", None, seed=7, scale=0.01))
    write_candidate(child, materialiser, tmp_path / "out")
    text = candidate_configuration(child, materialiser, EvolutionConfig())
    (tmp_path / "merge.yml").write_text(text)
    merge_to_disk(tmp_path / "merge.yml", tmp_path / "rebuilt")
    assert_equal(loaded(tmp_path / "rebuilt").state_dict(), loaded(tmp_path / "out").state_dict())


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "deepseek_v3", "gpt_neox", "llava", "gpt2"])
def test_a_base_that_stores_the_module_s_names_keeps_them(name: str, tmp_path: Path) -> None:
    """As some tools save it; gpt2 also without the prefix of its body, as on the Hub."""
    base = make_architecture(name, tmp_path / "base")
    state = loaded(base).state_dict()
    if name == "gpt2":
        state = {key.removeprefix("transformer."): tensor for key, tensor in state.items() if key != "lm_head.weight"}
    write_tensors(base, {key: tensor.clone() for key, tensor in state.items()})
    assert_exported(base, [make_expert(base, tmp_path / f"expert-{seed}", seed) for seed in (1, 2)], tmp_path / "out")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "case", ["stacked, only one", "stacked and attention", "stacked and latent attention", "output head"]
)
def test_a_merge_of_adapters_is_exported_as_the_engine_s_model(case: str, tmp_path: Path) -> None:
    architecture, options = ADAPTERS[case]
    base = make_architecture(architecture, tmp_path / "base")
    adapters = [make_adapter(base, tmp_path / f"adapter-{seed}", seed, **options) for seed in (1, 2)]
    assert_exported(base, adapters, tmp_path / "out")
