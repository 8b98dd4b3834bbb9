"""What differs between versions and builds of vLLM, in one place. Each shim says why, and when it may go."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import torch

from cycleqd_merge.errors import UserError

Tensors = Iterable[tuple[str, torch.Tensor]]


def load_weights(worker: Any, tensors: Tensors) -> None:
    """Put checkpoint tensors into a worker's model, in place.

    `model.load_weights` writes straight into the parameters and is the fastest way, but is wrong wherever parameters
    are stored otherwise than in the checkpoint: prepacked on CPU, quantised, fused experts. There `reload_weights`
    goes through the layers' own processing again. May go when `reload_weights` is as fast on unprocessed layers.
    """
    runner = worker.model_runner
    model = runner.get_model()
    if torch.device(worker.device).type == "cpu" or _processed(model, worker.model_config):
        runner.reload_weights(weights_iterator=tensors)
    else:
        model.load_weights(tensors)


def _processed(model: Any, config: Any) -> bool:
    """Whether loading changes how parameters are stored."""
    if getattr(config, "quantization", None) is not None:
        return True
    return any("FusedMoE" in type(module).__name__ for module in model.modules())


def prepare_environment() -> None:
    """Have vLLM spawn its processes where this one has used the GPU: a forked one could not.

    vLLM sees to it itself where it notices; it did not in 0.25. May go with the last version that does not.
    """
    if torch.cuda.is_available():
        os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")


def require_sound(config: Any) -> None:
    """Refuse models whose weights cannot be exchanged in place by this build.

    On CPU vLLM keeps a packed copy of an output head that is tied to the input embedding, and a load in place does not
    reach it (seen in 0.32): children would be scored with a part of the base. May go when a load reaches it.

    Raises:
        UserError: the model is such a one.
    """
    if not torch.cuda.is_available() and config.get_text_config().tie_word_embeddings:
        raise UserError(
            "engine vllm: on CPU vLLM cannot exchange the weights of a model with tied embeddings; "
            "use `engine: {kind: transformers}`"
        )


def reset_prefix_cache(llm: Any) -> None:
    """Forget cached prefixes; without it, prompts seen before are answered with the last child's keys and values.

    vLLM reports rather than raises when blocks are still in use, which would leave stale answers.
    """
    if llm.reset_prefix_cache() is False:
        raise RuntimeError("vLLM would not reset its prefix cache")


def final_only() -> Any:
    """The output kind that reports a request once, when it is done."""
    from vllm.sampling_params import RequestOutputKind

    return RequestOutputKind.FINAL_ONLY
