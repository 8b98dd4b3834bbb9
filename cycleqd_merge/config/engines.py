"""The engines that a recipe may choose to evaluate children."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    model_validator,
)

from cycleqd_merge.config.validation_errors import KeyProblem
from cycleqd_merge.config.values import MAX_COUNT, StrictConfig


class TransformersEngineConfig(StrictConfig):
    """Evaluation with transformers in this process."""

    kind: Literal["transformers"] = "transformers"
    device: str | None = None
    """A torch device; by default the one that accelerate chooses."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Data type for inference; `auto` uses the checkpoint's."""
    batch_size: int = Field(64, ge=1, le=MAX_COUNT)
    """Number of prompts per batch."""
    threads: int | None = Field(None, ge=1, le=MAX_COUNT)
    """CPU threads; by default torch's."""

    @property
    def context(self) -> int | None:
        """The context length that the options state, in tokens: none, it is the model's."""
        return None


MOST_OF_GPU = 0.97
"""The total share of a GPU's memory that its engines may take."""


class VllmEngineConfig(StrictConfig):
    """Evaluation with vLLM: one persistent engine per worker, children built inside its own processes."""

    kind: Literal["vllm"]
    options: dict[str, Any] = Field(default_factory=dict)
    """Options for vLLM: `max_model_len`, `gpu_memory_utilization`, `tensor_parallel_size`, `kv_cache_dtype` ..."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Environment variables set before vLLM starts, such as `VLLM_BATCH_INVARIANT: "1"`."""
    place: Literal["auto", "disk", "host", "device"] = "auto"
    """Where base, experts and singular bases are kept between children: memory-mapped files, pinned host memory, or
    the GPU's memory; `auto` chooses the fastest with enough room. vLLM gets the rest of the GPU's memory unless
    `options` set its share."""
    per_gpu: int = Field(1, ge=1, le=MAX_COUNT)
    """Number of engines that share a GPU, for models so small that a single engine leaves it idle; each takes its share
    of the memory. The total number of engines is `workers`."""

    @property
    def context(self) -> int | None:
        """The context length that the options state, in tokens."""
        stated = self.options.get("max_model_len")
        return stated if isinstance(stated, int) and stated > 0 else None

    @model_validator(mode="after")
    def _check_shared_gpu(self) -> VllmEngineConfig:
        if self.per_gpu > 1 and self.options.get("tensor_parallel_size", 1) != 1:
            raise KeyProblem("engines that span several GPUs cannot share one", "per_gpu")
        share = self.options.get("gpu_memory_utilization")
        if self.per_gpu > 1 and isinstance(share, int | float) and share * self.per_gpu > MOST_OF_GPU:
            fit = f"the limit is {MOST_OF_GPU / self.per_gpu:.2f} each"
            raise KeyProblem(
                f"{self.per_gpu} engines with {share:g} of a GPU's memory each do not fit; {fit}",
                "options",
                "gpu_memory_utilization",
            )
        return self


def _transformers_unless_stated(value: Any) -> Any:
    return {"kind": "transformers", **value} if isinstance(value, Mapping) else value


EngineConfig = Annotated[
    Annotated[TransformersEngineConfig | VllmEngineConfig, Field(discriminator="kind")],
    BeforeValidator(_transformers_unless_stated),
]
