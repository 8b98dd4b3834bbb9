"""The exchange in place equals what transformers loads, bit for bit, and its inverse is what the checkpoint stores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from mergekit.common import ModelReference
from transformers import AutoModelForCausalLM

from cycleqd_merge.config.engines import TransformersEngineConfig
from cycleqd_merge.config.recipe import ModelsConfig
from cycleqd_merge.evaluation.engines.transformers_engine import TransformersEngine
from cycleqd_merge.evolution.genome import expert_genome
from cycleqd_merge.merging.candidates import write_candidate
from cycleqd_merge.merging.checkpoint import Checkpoint
from cycleqd_merge.merging.checks import check_family
from cycleqd_merge.merging.family import Expert, ModelFamily
from cycleqd_merge.merging.groups import Groups
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.name_map import build_name_map
from cycleqd_merge.outputs.verify import verify_checkpoint
from tests.architectures import ARCHITECTURES, make_architecture
from tests.models import make_expert, read_tensors

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
    family = ModelFamily(
        opened(base),
        tuple(Expert(f"e{n}", ModelReference.parse(str(path)), opened(path)) for n, path in enumerate(experts)),
        TRUSTED,
    )
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
