"""What a fit has in memory: where experts are kept, and whether activations are computed twice to save memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import psutil
import torch

from cycleqd_merge.evaluation.engines.placement import host_memory, memory_needs
from cycleqd_merge.fitting.examples import Shape
from cycleqd_merge.fitting.job import FitJob
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.sizes import largest_tensor_bytes
from cycleqd_merge.merging.staging import Place

_SHARE = 0.8
"""Of free memory that a fit plans to use: estimates of activations are rough."""
_ACTIVATIONS, _INNER = 16, 6
"""Activations that one layer keeps per token for its backward pass, in multiples of its width and its MLP's width."""
_LOGITS = 4
"""Copies of the logits in float32 that a loss and its gradient need."""
_WORKING = 4
"""Tensors of the largest size, in float32, that building a tensor and contracting its gradient need."""


@dataclass(frozen=True)
class FitMemory:
    """How a fit uses memory.

    place: of the base's and the experts' tensors and singular bases. checkpointing: whether each layer's activations
    are computed again in the backward pass instead of kept. room: bytes of the device that are left for task vectors in
    float32. record: whether passes can be recorded, which takes the memory of their activations again.
    """

    place: Place
    checkpointing: bool
    room: int = 0
    record: bool = False


@dataclass(frozen=True)
class Sharers:
    """How many processes learn fits at the same time, this one included: on its GPU, and on its host."""

    gpu: int = 1
    host: int = 1


ALONE = Sharers()


def used_memory(device: torch.device) -> int:
    """Bytes in use: of the GPU, by all processes; on a CPU, of host memory by this process and its children."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return total - free
    own = psutil.Process()
    used = 0
    for process in (own, *own.children(recursive=True)):
        try:
            used += process.memory_info().rss
        except psutil.Error:
            continue
    return used


def free_memory(device: torch.device, sharers: Sharers = ALONE) -> tuple[int, int]:
    """Bytes that a fit can take on the device, and of host memory; on a CPU, these are the same."""
    host = host_memory() // sharers.host
    if device.type != "cuda":
        return host, host
    free, total = torch.cuda.mem_get_info(device)
    # a part of the whole GPU: what is free depends on which of the others have released their engine by now
    return min(free, total // sharers.gpu), host


def fit_memory(
    materialiser: Materialiser, jobs: Sequence[FitJob], dtype: torch.dtype, free: int, host: int
) -> FitMemory:
    """Keep as much as fits: activations first, then experts, then their task vectors in float32.

    Layers are checkpointed if the model and all activations exceed `_SHARE` of the device's free memory. Experts are
    kept on the device if there is room left, else in host memory, else on disk, which is memory-mapped.

    free, host: see `free_memory`.
    """
    family = materialiser.family
    gpu = materialiser.device.type == "cuda"
    needs = memory_needs(materialiser, gpu)
    model = sum(prod(weight.shape) for weight in family.weights) * dtype.itemsize
    room = _SHARE * free - model - _WORKING * largest_tensor_bytes(family)
    whole, checkpointed = (activation_bytes(family.base.config, jobs, dtype, each) for each in (False, True))
    checkpointing = whole > room
    activations = checkpointed if checkpointing else whole
    left = room - activations
    if needs.parts <= left:
        record = gpu and needs.parts + activations <= left
        return FitMemory("device", checkpointing, int(left - needs.parts - activations * record), record)
    in_host = gpu and needs.parts * needs.pinned <= _SHARE * host
    return FitMemory("host" if in_host else "disk", checkpointing, max(int(left), 0))


def activation_bytes(config: Any, jobs: Sequence[FitJob], dtype: torch.dtype, checkpointing: bool) -> float:
    """An estimate of the memory for the activations and logits of the widest forward and backward pass of some jobs."""
    text = config.get_text_config()
    hidden = int(text.hidden_size)
    stated = getattr(text, "intermediate_size", None)
    inner = int(stated) if isinstance(stated, int) else 4 * hidden
    active = getattr(text, "num_experts_per_tok", None)
    inner *= int(active) if isinstance(active, int) else 1
    width, kept = _widest(jobs)
    layer = width * (_ACTIVATIONS * hidden + _INNER * inner) * dtype.itemsize
    logits = kept * int(text.vocab_size) * 4 * _LOGITS
    if checkpointing:
        return int(text.num_hidden_layers) * width * hidden * dtype.itemsize + layer + logits
    return int(text.num_hidden_layers) * layer + logits


def _widest(jobs: Sequence[FitJob]) -> tuple[int, float]:
    """The most tokens of one pass, and for how many of these logits are kept: from the first trained one on."""
    examples = [example for job in jobs for task in job.tasks for example in task.examples]
    longest = max(len(example.tokens) for example in examples)
    kept = max(len(example.tokens) - example.trained[0] + 1 for example in examples)
    rows = max(job.settings.rows * len(job.tasks) for job in jobs)
    most = max(job.settings.width for job in jobs)
    shape = Shape(rows, longest, 0, kept).rounded(most)  # as passes on a GPU are
    width = max(shape.width, min(most, shape.tokens))
    return width, width / shape.width * shape.kept
