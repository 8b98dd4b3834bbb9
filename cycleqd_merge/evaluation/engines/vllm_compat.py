"""Differences between versions and builds of vLLM, in one place. Each shim states its cause and when to remove it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any

import torch
from pydantic import ValidationError

Tensors = Iterable[tuple[str, torch.Tensor]]


def load_weights(worker: Any, tensors: Tensors) -> None:
    """Load checkpoint tensors into a worker's model, in place.

    `model.load_weights` writes directly into the parameters, which is fastest, but is wrong where parameters are not
    stored as in the checkpoint: prepacked on CPU, quantised, fused experts. There, `reload_weights` repeats the layers'
    own processing. Remove when `reload_weights` is as fast on unprocessed layers.
    """
    runner = worker.model_runner
    model = runner.get_model()
    if torch.device(worker.device).type == "cpu" or _processed(model, worker.model_config):
        if torch.device(worker.device).type == "cpu":
            _forget_kernels(model)
        runner.reload_weights(weights_iterator=tensors)
        _process_tied(model)
    else:
        model.load_weights(tensors)


def _forget_kernels(model: Any) -> None:
    """Have the layers of fused experts build their kernels again, as after the first load.

    On CPU the experts' weights are packed only while a layer has no kernel yet: after a reload, its kernel would read
    unpacked weights as packed ones (seen in 0.32). Remove when reloading packs them.
    """
    for module in model.modules():
        method: Any = getattr(module, "quant_method", None)
        if getattr(method, "moe_kernel", None) is not None:
            method.moe_kernel = None


def _process_tied(model: Any) -> None:
    """Process again the layers that share their weight with another layer.

    `reload_weights` processes only the layer that the checkpoint names. On CPU, an output head tied to the input
    embedding then keeps a packed copy of the old weights (seen in 0.32). Remove when it processes every layer of a
    shared weight.
    """
    seen: set[int] = set()
    for module in model.modules():
        weight, method = getattr(module, "weight", None), getattr(module, "quant_method", None)
        if weight is None or method is None:
            continue
        if id(weight) in seen:
            method.process_weights_after_loading(module)
        seen.add(id(weight))


def _processed(model: Any, config: Any) -> bool:
    """Whether loading changes how parameters are stored."""
    if getattr(config, "quantization", None) is not None:
        return True
    return any(_keeps_processed_weights(module) for module in model.modules())


def _keeps_processed_weights(module: Any) -> bool:
    """Whether a layer computes something from its weights after loading: fused experts, and latent attention (MLA)."""
    return "MoE" in type(getattr(module, "quant_method", None)).__name__ or "MLA" in type(module).__name__


def correct_cpu_rotation() -> None:
    """Rotate queries and keys of shape (tokens, heads, size) right on CPU; call this before a model is built.

    The CPU kernel takes the last dimension for all heads together and leaves all heads but one as they are (seen in
    0.32): LFM2 and DeepSeek-V3 answer differently from transformers. Remove when the kernel handles this shape.
    """
    from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbedding

    kernel = RotaryEmbedding.forward_cpu
    if hasattr(kernel, "__wrapped__"):
        return

    @wraps(kernel)
    def forward_cpu(self: Any, positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor | None = None) -> Any:
        return (kernel if query.ndim == 2 else type(self).forward_native)(self, positions, query, key)

    RotaryEmbedding.forward_cpu = forward_cpu


def expected_unused(config: Any, names: Iterable[str]) -> set[str]:
    """Those of some stored tensors that vLLM leaves out because they are tied to the input embedding."""
    if not getattr(config, "tie_word_embeddings", False):
        return set()
    return {name for name in names if name.split(".")[-2:-1] in (["lm_head"], ["embed_out"])}


def can_sleep() -> bool:
    """Whether vLLM can free its memory and take it again, on this platform."""
    from vllm.platforms import current_platform

    return bool(current_platform.is_sleep_mode_available())


def model_context(worker: Any) -> AbstractContextManager[None]:
    """In a worker, transformers models can be built within this context only.

    vLLM's backend for transformers models puts its own activations and norms into transformers, and these need its
    configuration (SmolLM3, GPT-NeoX and others in 0.32). Remove when vLLM leaves transformers as it is.
    """
    from vllm.config import set_current_vllm_config

    context: AbstractContextManager[None] = set_current_vllm_config(worker.vllm_config)
    return context


def unsupported(llm: Any) -> str | None:
    """Why a started engine cannot run its model; None if it can.

    On CPU, attention with a head size that has no kernel fails only at the first prompt, with the engine (seen in
    0.32). Remove when vLLM refuses it at the start.
    """
    from vllm.platforms import current_platform

    config = llm.llm_engine.model_config
    if not current_platform.is_cpu() or config.is_attention_free or config.use_mla:
        return None
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    size, sizes = config.get_head_size(), CPUAttentionBackend.get_supported_head_sizes()
    return None if size in sizes else f"on CPU, vLLM has attention heads of size {sizes}, and the model's have {size}"


def prepare_environment() -> None:
    """Have vLLM spawn its processes, not fork them: a fork of a process that has used the GPU cannot use it.

    vLLM does so itself where it notices the need; 0.25 did not. Remove with the last version that does not.
    """
    if torch.cuda.is_available():
        os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")


def gpu_memory() -> int | None:
    """Bytes of one GPU's memory, found without initialising CUDA; None without a GPU."""
    if not torch.cuda.is_available():
        return None
    from vllm.platforms import current_platform

    return int(current_platform.get_device_total_memory())


def start_failure(error: Exception, share: float) -> str:
    """Why vLLM cannot be started, in one line; its core process reports its reason in the log only.

    share: the share of a GPU's memory that vLLM asks for.
    """
    total, used = gpu_memory(), _used_memory()
    if total and used is not None and total - used < share * total:
        return (
            f"{(total - used) / 2**30:.1f} of the GPU's {total / 2**30:.1f} GiB of memory are free, and vLLM asks for "
            f"{share:.0%} of them; end other processes on the GPU, or set engine.options.gpu_memory_utilization to a "
            "smaller share"
        )
    stated = reason(error)
    if "Engine core" not in stated:
        return stated
    return f"{stated} (most often too little memory: free some, or set engine.options.gpu_memory_utilization)"


def _used_memory() -> int | None:
    """Bytes of the first GPU's memory in use, by all processes; None if they cannot be found out."""
    try:
        return int(torch.cuda.device_memory_used())
    except Exception:  # no NVML, which virtual and some other GPUs lack
        return None


def fail_with_core(llm: Any) -> None:
    """Make everything that waits for the engine's core process raise once that process has died.

    A core that fails reports it, but one that is killed, for example for lack of memory, leaves its callers waiting
    forever (seen in 0.32). Remove when vLLM ends these waits.
    """
    core = llm.llm_engine.engine_core
    if not hasattr(core, "resources"):
        return  # it runs in this process
    from vllm.v1.engine.exceptions import EngineDeadError

    def watch() -> None:
        while not core.resources.engine_dead:  # is also set by a shutdown
            time.sleep(0.5)
        core.outputs_queue.put_nowait(EngineDeadError())
        for waited in list(core.utility_results.values()):
            if not waited.done():
                waited.set_exception(EngineDeadError())

    threading.Thread(target=watch, name="vllm-core", daemon=True).start()


def reset_prefix_cache(llm: Any) -> None:
    """Empty the prefix cache: known prompts would be answered with the previous child's keys and values.

    While blocks are still in use, vLLM returns False instead of raising an error, and would keep stale ones.
    """
    if llm.reset_prefix_cache() is False:
        raise RuntimeError("vLLM did not reset its prefix cache")


def final_only() -> Any:
    """The output kind that reports a request only once, when it has finished."""
    from vllm.sampling_params import RequestOutputKind

    return RequestOutputKind.FINAL_ONLY


def refusals() -> tuple[type[Exception], ...]:
    """The errors that vLLM raises for options and requests that it rejects.

    `ValueError` in 0.25, errors of its own in 0.32. Remove with the last version that raises `ValueError`.
    """
    from vllm import exceptions

    own = getattr(exceptions, "VLLMError", None)
    return (ValueError,) if own is None else (ValueError, own)


def reason(refusal: Exception) -> str:
    """Why vLLM rejects something, in one line: the last line of its message, or all problems found by pydantic."""
    if isinstance(refusal, ValidationError):
        return " ".join("; ".join(problem["msg"] for problem in refusal.errors()).split())
    return (str(refusal).strip().splitlines() or [type(refusal).__name__])[-1]
