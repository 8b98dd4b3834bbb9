"""The command to rebuild an export is offered exactly where stock mergekit builds the same tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

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
from tests.models import make_expert, make_recipe, open_recipe_family

CASES: dict[str, tuple[str, dict[str, Any], bool | None]] = {  # name, options, whether stock mergekit can rebuild it
    "llama": ("llama", {}, True),
    "llama tied": ("llama_tied", {}, True),
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}, False),
    "cohere with norms": ("cohere", {"use_qk_norm": True}, True),
    **{name: (name, {}, True) for name in ("qwen2", "qwen3", "mistral", "gemma2", "gemma3", "phi3", "phi", "olmo2")},
    **{name: (name, {}, True) for name in ("starcoder2", "stablelm", "granite", "smollm3", "gpt2", "opt")},
    **{name: (name, {}, False) for name in ("falcon", "falcon_new", "cohere")},
    **{name: (name, {}, None) for name in ("gpt_neox", "bloom", "glm4", "lfm2", "mamba2", "gpt_oss")},
    **{name: (name, {}, None) for name in ("mixtral", "qwen3_moe", "olmoe", "deepseek_v3")},
}
"""None: mergekit decides by the versions of transformers' names; the command must agree with what it does."""


@pytest.mark.parametrize("name", CASES)
def test_the_command_is_offered_where_stock_mergekit_rebuilds_the_model(name: str, tmp_path: Path) -> None:
    architecture, options, offered = CASES[name]
    base = make_architecture(architecture, tmp_path / "base", **options)
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
