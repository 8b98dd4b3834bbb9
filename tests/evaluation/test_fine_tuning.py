"""Fine-tuning of a merge on the examples of a fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from cycleqd_merge.config.evolution import LayerGroupsConfig
from cycleqd_merge.evaluation.fine_tuning import fine_tuned_model
from cycleqd_merge.evolution.genome import level_genome
from cycleqd_merge.fitting.fine_tuning import Length, MasterAdamW
from cycleqd_merge.fitting.job import FitJob
from cycleqd_merge.fitting.training import FitSettings, FitTask
from cycleqd_merge.merging.candidates import candidate_tensors
from cycleqd_merge.merging.materialise import Materialiser
from tests.fitting.test_training import examples
from tests.merging.conftest import Trio, llama
from tests.models import read_tensors

__all__ = ["llama"]
TASKS = tuple(FitTask(f"task {number}", number, examples(number)) for number in range(3))


@pytest.fixture(scope="module")
def materialiser(llama: Trio) -> Materialiser:
    return llama.materialiser(LayerGroupsConfig(blocks=2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps_are_those_of_adamw_in_float32(dtype: torch.dtype) -> None:
    start = [torch.randn(5, 3).to(dtype), torch.randn(4).to(dtype)]
    ours = [tensor.clone().requires_grad_() for tensor in start]
    theirs = [tensor.float().requires_grad_() for tensor in start]
    optimiser = MasterAdamW(ours)
    reference = torch.optim.AdamW(theirs, lr=1e-4, weight_decay=0.01)
    for _ in range(20):
        for own, other in zip(ours, theirs, strict=True):
            own.grad = torch.randn_like(other).to(dtype)
            other.grad = own.grad.float()
        torch.nn.utils.clip_grad_norm_(theirs, 1.0)
        optimiser.step(1e-4)
        reference.step()
    assert all(own.grad is None for own in ours)
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own.detach(), other.detach().to(dtype))


@pytest.mark.parametrize("loss", ["distillation", "cross-entropy"])
def test_all_weights_are_trained_from_the_merge_on(materialiser: Materialiser, tmp_path: Path, loss: str) -> None:
    job = FitJob(0, TASKS, FitSettings(rows=3, loss=loss))  # type: ignore[arg-type]
    outs = [tmp_path / name for name in ("still", "trained", "again")]
    still = fine_tuned_model(materialiser, job, 1e-12, Length(steps=1), outs[0])
    groups = len(materialiser.groups.labels)
    merged = dict(candidate_tensors(level_genome(0.5, 3, groups), materialiser))
    kept = read_tensors(outs[0])
    assert kept.keys() == merged.keys()
    for name, tensor in merged.items():
        torch.testing.assert_close(kept[name], tensor, rtol=1e-2, atol=1e-6)

    trained = [fine_tuned_model(materialiser, job, 1e-2, Length(steps=8), out) for out in outs[1:]]
    assert trained[0].losses == trained[1].losses
    assert trained[0].losses[0] == still.losses[0]
    assert min(trained[0].losses[4:]) < 0.9 * still.losses[0]
    found, again = map(read_tensors, outs[1:])
    for name, tensor in found.items():
        assert torch.equal(tensor, again[name])
        assert tensor.dtype == merged[name].dtype
        assert not torch.equal(tensor, kept[name])
    assert AutoModelForCausalLM.from_pretrained(outs[1]).config.vocab_size


def test_it_ends_when_its_seconds_are_over(materialiser: Materialiser, tmp_path: Path) -> None:
    job = FitJob(0, TASKS, FitSettings(rows=3, loss="cross-entropy"))
    assert len(fine_tuned_model(materialiser, job, 1e-3, Length(seconds=1e-3), tmp_path / "one").losses) == 1
    longer = fine_tuned_model(materialiser, job, 1e-3, Length(seconds=3.0), tmp_path / "more")
    assert len(longer.losses) > 1
    assert 3 <= longer.seconds < 60
