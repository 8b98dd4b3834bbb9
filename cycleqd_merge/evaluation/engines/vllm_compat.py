"""What differs between versions and builds of vLLM, in one place. Each shim says why, and when it may go."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from typing import Any

import torch
from pydantic import ValidationError

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
        _process_tied(model)
    else:
        model.load_weights(tensors)


def _process_tied(model: Any) -> None:
    """Process layers again whose weight is another layer's too.

    `reload_weights` processes the layer that the checkpoint names. On CPU an output head tied to the input embedding
    then keeps a packed copy of the old weights (seen in 0.32). May go when it processes every layer of a shared weight.
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
    return any("FusedMoE" in type(module).__name__ for module in model.modules())


def prepare_environment() -> None:
    """Have vLLM spawn its processes where this one has used the GPU: a forked one could not.

    vLLM sees to it itself where it notices; it did not in 0.25. May go with the last version that does not.
    """
    if torch.cuda.is_available():
        os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")


def gpu_memory() -> int | None:
    """Bytes of one GPU's memory, asked for without touching the GPU; None without one."""
    if not torch.cuda.is_available():
        return None
    from vllm.platforms import current_platform

    return int(current_platform.get_device_total_memory())


def fail_with_its_core(llm: Any) -> None:
    """Have everything that waits for the engine's core raise once that process is gone.

    A core that fails says so, but one that is killed, as for want of memory, leaves whoever waits for it waiting for
    ever (seen in 0.32). May go when vLLM ends these waits.
    """
    core = llm.llm_engine.engine_core
    if not hasattr(core, "resources"):
        return  # it runs in this process
    from vllm.v1.engine.exceptions import EngineDeadError

    def watch() -> None:
        while not core.resources.engine_dead:  # also set when it is shut down
            time.sleep(0.5)
        core.outputs_queue.put_nowait(EngineDeadError())
        for waited in list(core.utility_results.values()):
            if not waited.done():
                waited.set_exception(EngineDeadError())

    threading.Thread(target=watch, name="vllm-core", daemon=True).start()


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


def refusals() -> tuple[type[Exception], ...]:
    """What vLLM raises for options and requests that it does not take.

    A `ValueError` in 0.25; errors of its own by 0.32. May go with the last version that raises `ValueError`.
    """
    from vllm import exceptions

    own = getattr(exceptions, "VLLMError", None)
    return (ValueError,) if own is None else (ValueError, own)


def reason(refusal: Exception) -> str:
    """Why vLLM refuses, in one line: the last of what it says, unless it is pydantic that says it."""
    if isinstance(refusal, ValidationError):
        return " ".join("; ".join(fault["msg"] for fault in refusal.errors()).split())
    return str(refusal).strip().splitlines()[-1]
