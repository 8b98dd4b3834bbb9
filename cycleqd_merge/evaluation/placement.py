"""Where a vLLM worker keeps what children are built from, and how much of the GPU is left to vLLM."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.shared import MEMORY
from cycleqd_merge.merging.sizes import basis_bytes, expert_bytes, largest_tensor, model_bytes
from cycleqd_merge.merging.staging import Place
from cycleqd_merge.recipe.schema import MOST_OF_GPU

_LEAST_FOR_CACHE = 0.2  # of the GPU: what keys and values should have beside the model
_MOST = 0.9  # of the GPU: vLLM's own default; the rest is for CUDA and its graphs
_CACHE = 0.7  # of what vLLM has beside the model; the rest is for activations, CUDA and its graphs
_HOST = 0.8  # of the host memory that is available
_WORKING = 6  # float32 tensors of the largest shape that building one takes at a time, beside one per expert

Ahead = Literal["device", "host", "none"]
"""Where the next child is prepared while one is scored."""


@dataclass(frozen=True)
class Needs:
    """Bytes. model: one child. parts: base, experts and singular bases as they are kept. working: to build a tensor."""

    model: int
    parts: int
    working: int


@dataclass(frozen=True)
class Placement:
    """place: of base, experts and bases between children. ahead: of the next child. utilization: vLLM's share of the
    GPU's memory; None without a GPU. cache: bytes for keys and values where engines share a GPU: vLLM would measure
    what the others take meanwhile; None where it finds out itself."""

    place: Place
    ahead: Ahead
    utilization: float | None
    cache: int | None = None


def needs(materialiser: Materialiser, gpu: bool) -> Needs:
    """What a worker over the materialiser's family needs. On a GPU, bases of full experts are kept in bfloat16."""
    family = materialiser.family
    parts = model_bytes(family) + sum(expert_bytes(family, expert) for expert in family.experts)
    for number in materialiser.bases:
        expert = family.experts[number]
        stored = sum(basis_bytes(w, expert, materialiser.rank) for w in family.weights if w.is_matrix)
        parts += stored // 2 if gpu and expert.reference.lora is None else stored
    return Needs(model_bytes(family), parts, (_WORKING + len(family.experts)) * largest_tensor(family))


def placement(
    needed: Needs,
    gpu: int | None,
    host: int,
    ranks: int = 1,
    neighbours: int = 1,
    place: Place | None = None,
    utilization: float | None = None,
    per_gpu: int = 1,
) -> Placement:
    """Keep everything on the GPU where it leaves vLLM enough, else in host memory, else on disk; so the next child.

    gpu: bytes of one GPU's memory, None without one. host: bytes of host memory that are available.
    ranks: of tensor parallelism; each builds whole tensors. neighbours: workers on this host, which share what is kept
    in its memory. place, utilization: the user's choice, if any. per_gpu: engines that share the GPU.
    """
    if per_gpu > 1 and gpu is not None:
        stated = None if utilization is None else utilization * per_gpu
        placed = placement(needed, gpu // per_gpu, host, ranks, neighbours, place, stated)
        assert placed.utilization is not None
        cache = max(int(_CACHE * (placed.utilization * (gpu // per_gpu) - needed.model)), 0)
        return replace(placed, utilization=round(placed.utilization / per_gpu, 4), cache=cache)
    processes = ranks * neighbours
    in_host: Place = "shared" if processes > 1 and MEMORY.is_dir() else "host"
    copies = processes if in_host == "host" else 1

    def chosen(device_room: float) -> Place:
        if place is not None:
            return in_host if place == "host" else place
        if needed.parts + needed.model <= device_room:
            return "device"
        return in_host if copies * needed.parts <= _HOST * host else "disk"

    share = _MOST - _LEAST_FOR_CACHE if utilization is None else MOST_OF_GPU - utilization
    room = 0.0 if gpu is None else gpu * share - needed.working - (needed.model / ranks if utilization is None else 0)
    kept = chosen(room)
    taken = needed.parts if kept == "device" else 0
    host_room = _HOST * host - (copies * needed.parts if kept == in_host else 0)
    ahead: Ahead = "host" if processes * needed.model <= host_room else "none"
    if gpu is None:
        return Placement(kept, ahead, None)
    if taken + needed.model <= room:
        ahead, taken = "device", taken + needed.model
    left = max(round(_MOST - (taken + needed.working) / gpu, 3), 0.05)
    return Placement(kept, ahead, left if utilization is None else utilization)
