"""The context length of models, from the names that configurations and tokenizers state it by."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from transformers import (
    BloomConfig,
    CohereConfig,
    Gemma3Config,
    GPT2Config,
    GPTJConfig,
    LlamaConfig,
    MptConfig,
    OPTConfig,
    PretrainedConfig,
)

from cycleqd_merge.config.engines import TransformersEngineConfig, VllmEngineConfig
from cycleqd_merge.merging.tokenizers import context_length

NONE = int(1e30)  # a tokenizer without a limit


def limit(config: PretrainedConfig, tokenizer: float = NONE, engine: int | None = None) -> int | None:
    family: Any = SimpleNamespace(base=SimpleNamespace(config=config))
    named: Any = SimpleNamespace(model_max_length=tokenizer)
    return context_length(family, named, engine)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (LlamaConfig(max_position_embeddings=4096), 4096),
        (GPT2Config(n_positions=1024), 1024),
        (GPTJConfig(n_positions=2048), 2048),
        (OPTConfig(max_position_embeddings=2048), 2048),
        (MptConfig(max_seq_len=2048), 2048),
        (Gemma3Config(text_config={"max_position_embeddings": 8192}), 8192),
        (PretrainedConfig(seq_length=32768), 32768),  # ChatGLM
        (CohereConfig(max_position_embeddings=8192, model_max_length=131072), 131072),  # Command-R
        (BloomConfig(), None),
        (PretrainedConfig(), None),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_the_models_own(config: PretrainedConfig, expected: int | None) -> None:
    assert limit(config) == expected


@pytest.mark.parametrize(
    ("model", "tokenizer", "engine", "expected"),
    [(256, NONE, None, 256), (256, 128, None, 128), (256, 512, 64, 64), (256, 512, 512, 256), (256, 0, None, 256)],
)
def test_the_smallest_counts(model: int, tokenizer: int, engine: int | None, expected: int) -> None:
    assert limit(LlamaConfig(max_position_embeddings=model), tokenizer, engine) == expected


@pytest.mark.parametrize(("stated", "expected"), [({}, None), (4096, 4096), (-1, None), ("auto", None), ("4k", None)])
def test_vllms_option(stated: Any, expected: int | None) -> None:
    options = stated if stated == {} else {"max_model_len": stated}
    assert VllmEngineConfig(kind="vllm", options=options).context == expected
    assert TransformersEngineConfig().context is None
