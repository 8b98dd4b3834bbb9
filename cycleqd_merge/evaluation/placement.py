"""Where a vLLM worker keeps what children are built from, and how much of the GPU is left to vLLM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.sizes import basis_bytes, expert_bytes, largest_tensor, model_bytes
from cycleqd_merge.merging.staging import Place

_LEAST_FOR_CACHE = 0.2  # of the GPU: what keys and values should have beside the model
_MOST = 0.9  # of the GPU: vLLM's own default; the rest is for CUDA and its graphs
_HOST = 0.8  # of the host memory that is available
_WORKING = 6  # float32 tensors of the largest shape that building one takes at a time

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
    GPU's memory; None without a GPU."""

    place: Place
    ahead: Ahead
    utilization: float | None


def needs(materialiser: Materialiser, gpu: bool) -> Needs:
    """What a worker over the materialiser's family needs. On a GPU, bases of full experts are kept in bfloat16."""
    family = materialiser.family
    parts = model_bytes(family) + sum(expert_bytes(family, expert) for expert in family.experts)
    for number in materialiser.bases:
        expert = family.experts[number]
        stored = sum(basis_bytes(w, expert, materialiser.rank) for w in family.weights if w.is_matrix)
        parts += stored // 2 if gpu and expert.reference.lora is None else stored
    return Needs(model_bytes(family), parts, _WORKING * largest_tensor(family))


def placement(
    needed: Needs,
    gpu: int | None,
    host: int,
    ranks: int = 1,
    place: Place | None = None,
    utilization: float | None = None,
) -> Placement:
    """Keep everything on the GPU where it leaves vLLM enough, else in host memory, else on disk; so the next child.

    gpu: bytes of one GPU's memory, None without one. host: bytes of host memory that a worker may take.
    ranks: of tensor parallelism; each builds whole tensors. place, utilization: the user's choice, if any.
    """
    if gpu is None:
        place = place or ("host" if needed.parts + needed.model <= _HOST * host else "disk")
        room = host * _HOST - (needed.parts if place != "disk" else 0)
        return Placement(place, "host" if needed.model <= room else "none", None)
    most = _MOST if utilization is None else utilization
    spare = gpu * (_MOST - _LEAST_FOR_CACHE if utilization is None else 0.98 - utilization) - needed.working
    if utilization is None:
        spare -= needed.model / ranks
    if place is None:
        place = "device" if needed.parts + needed.model <= spare else "host"
        place = "disk" if place == "host" and needed.parts > _HOST * host else place
    spare -= needed.parts if place == "device" else 0
    host_room = _HOST * host - (needed.parts if place == "host" else 0)
    ahead: Ahead = "device" if needed.model <= spare else "host" if ranks * needed.model <= host_room else "none"
    taken = needed.working + (needed.parts if place == "device" else 0) + (needed.model if ahead == "device" else 0)
    return Placement(place, ahead, most if utilization is not None else max(round(_MOST - taken / gpu, 3), 0.05))
