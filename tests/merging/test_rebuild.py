"""The command to rebuild an export is offered exactly where stock mergekit builds the same tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from cycleqd_merge.config.evolution import EvolutionConfig
from cycleqd_merge.config.recipe import ModelsConfig
from cycleqd_merge.evolution.genome import Genome, Mutation, level_genome
from cycleqd_merge.merging.bases import prepare_bases
from cycleqd_merge.merging.checkpoint import Checkpoint
from cycleqd_merge.merging.family import Expert, ModelFamily
from cycleqd_merge.merging.groups import Groups
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.mergekit_config import OWN_COMMAND, configuration_text, why_not_rebuilt
from cycleqd_merge.merging.mergekit_references import model_reference
from cycleqd_merge.merging.rebuild_command import NO_COMMAND, rebuild_command
from tests.architectures import make_architecture
from tests.merging.test_mergekit import stock
from tests.models import VOCABULARY, make_expert, make_recipe, make_tokenizer, open_recipe_family

SHARED: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
CASES: dict[str, tuple[str, dict[str, Any], bool | None]] = {  # type, settings, whether stock mergekit can rebuild it
    "llama": ("llama", {}, True),
    "llama tied": ("llama", {"tie_word_embeddings": True}, True),
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}, False),
    "qwen2": ("qwen2", {}, True),
    "qwen3": ("qwen3", {"head_dim": 16, "tie_word_embeddings": True}, True),
    "mistral": ("mistral", {}, True),
    "gemma2": ("gemma2", {"head_dim": 16}, True),
    "gemma3": ("gemma3_text", {"head_dim": 16}, True),
    "phi3": ("phi3", {}, True),
    "phi": ("phi", {}, True),
    "olmo2": ("olmo2", {}, True),
    "starcoder2": ("starcoder2", {}, True),
    "stablelm": ("stablelm", {}, True),
    "granite": ("granite", {}, True),
    "smollm3": ("smollm3", {}, True),
    "falcon, old decoder": ("falcon", {}, False),
    "falcon, new decoder": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}, False),
    "cohere": ("cohere", {}, False),
    "cohere with norms": ("cohere", {"use_qk_norm": True}, True),
    "gpt2": ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4}, True),
    "opt": ("opt", {"ffn_dim": 48, "word_embed_proj_dim": 32}, True),
    "gpt-neox": ("gpt_neox", {}, None),
    "bloom": ("bloom", {"n_layer": 2, "n_head": 4}, None),
    "glm4": ("glm4", {"head_dim": 8}, None),
    "lfm2": ("lfm2", {"block_auto_adjust_ff_dim": False, "layer_types": ["conv", "full_attention"]}, None),
    "mamba2": ("mamba2", {"num_heads": 8, "head_dim": 8, "n_groups": 1, "state_size": 8}, None),
    "mixtral": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}, None),
    "qwen3-moe": ("qwen3_moe", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}, None),
    "olmoe": ("olmoe", {"num_experts": 4}, None),
    "gpt-oss": ("gpt_oss", {"num_local_experts": 4, "head_dim": 8}, None),
    "deepseek-v3": (
        "deepseek_v3",
        {
            "n_routed_experts": 4,
            "n_group": 1,
            "topk_group": 1,
            "num_experts_per_tok": 2,
            "q_lora_rank": 8,
            "kv_lora_rank": 8,
            "qk_rope_head_dim": 8,
            "v_head_dim": 8,
            "qk_nope_head_dim": 8,
            "moe_intermediate_size": 16,
            "first_k_dense_replace": 1,
        },
        None,
    ),
}
"""None: mergekit decides by the versions of transformers' names; the command must agree with what it does."""


@pytest.mark.parametrize("name", CASES)
def test_the_command_is_offered_where_stock_mergekit_rebuilds_the_model(name: str, tmp_path: Path) -> None:
    kind, settings, offered = CASES[name]
    base = tmp_path / "base"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**{**SHARED, **settings}))
        model.to(torch.bfloat16).save_pretrained(base)
    make_tokenizer().save_pretrained(base)
    experts = {label: make_expert(base, tmp_path / label, seed) for seed, label in enumerate("ab", start=1)}
    family = open_recipe_family(make_recipe(tmp_path, base, experts))
    materialiser = Materialiser(family, Groups(family.weights, "one"), prepare_bases(family, (0,)))
    genome = level_genome(0.4, 2, 1)
    text = configuration_text(genome, materialiser, EvolutionConfig())
    mutated = Genome(genome.coefficients, (Mutation("svd", 0, 11, 0.5),), torch.ones(1, 1).numpy())
    own = configuration_text(mutated, materialiser, EvolutionConfig())
    wanted = dict(materialiser.tensors(genome))
    try:
        built = stock(text, tmp_path / "merge")
        same = built.keys() == wanted.keys() and all(torch.equal(built[name], wanted[name]) for name in wanted)
    except Exception:  # whatever mergekit raises
        same = False
    assert same == (same if offered is None else offered)
    assert text.startswith("# mergekit-yaml mergekit_config.yml OUT\n" if same else f"# {NO_COMMAND}its description")
    assert (rebuild_command(text) is None, rebuild_command(own) is None) == (not same, not same)
    assert own.startswith(f"# {OWN_COMMAND}\n" if same else f"# {NO_COMMAND}its description")


def test_models_from_the_hub_are_planned_from_their_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = make_architecture("llama", tmp_path / "base")
    folders = {"base": base, **{name: make_expert(base, tmp_path / name, seed) for seed, name in enumerate("ab")}}
    settings = ModelsConfig()
    models = {name: Checkpoint(model_reference(f"me/{name}"), settings, folder) for name, folder in folders.items()}
    experts = tuple(Expert(name, models[name].reference, models[name]) for name in "ab")
    family = ModelFamily(models["base"], experts, settings)

    def reach(*_: object, **__: object) -> None:
        raise AssertionError("the Hub was asked")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", reach)
    monkeypatch.setattr(huggingface_hub, "list_repo_files", reach)
    assert why_not_rebuilt(family) is None
