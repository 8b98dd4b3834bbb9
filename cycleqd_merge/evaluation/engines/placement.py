"""Where a vLLM worker keeps the tensors that children are built from, and how much of the GPU vLLM gets."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import psutil

from cycleqd_merge.config.engines import MOST_OF_GPU
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.shared import SPARE
from cycleqd_merge.merging.sizes import (
    basis_bytes,
    expert_bytes,
    largest_tensor_bytes,
    model_bytes,
    pinned_memory_bytes,
)
from cycleqd_merge.merging.staging import Place

_LEAST_FOR_CACHE = 0.2  # share of the GPU's memory that the KV cache should have
MOST = 0.9  # share of the GPU's memory to use: vLLM's default; the rest is for CUDA and its graphs
_CACHE = 0.7  # the KV cache's share of vLLM's memory besides the model; the rest is for activations and CUDA
_HOST = 0.8  # share of the available host memory to use
_WORKING = 6  # float32 tensors of the largest shape that building a tensor needs, in addition to one per expert

PrefetchPlace = Literal["device", "host", "none"]
"""Where the next child is built while one is scored."""


@dataclass(frozen=True)
class MemoryNeeds:
    """Memory that a worker needs, in bytes.

    model: one child. parts: base, experts and singular bases as they are kept. working: what building a tensor needs.
    pinned: factor by which tensors are larger in pinned memory, where CUDA rounds each up to a power of two.
    """

    model: int
    parts: int
    working: int
    pinned: float = 1.0


@dataclass(frozen=True)
class Placement:
    """Where a worker keeps its tensors, and the memory that vLLM gets.

    place: of base, experts and singular bases between children. prefetch: of the next child. utilization: vLLM's share
    of the GPU's memory; None without a GPU. cache: bytes of the KV cache if engines share a GPU, since vLLM
    cannot measure its own part then; None if vLLM measures it.
    """

    place: Place
    prefetch: PrefetchPlace
    utilization: float | None
    cache: int | None = None


def memory_needs(materialiser: Materialiser, gpu: bool) -> MemoryNeeds:
    """The needs of a worker for the materialiser's family. On a GPU, bases of full experts are kept in bfloat16."""
    family = materialiser.family
    parts = model_bytes(family) + sum(expert_bytes(family, expert) for expert in family.experts)
    for number in materialiser.bases:
        expert = family.experts[number]
        stored = sum(basis_bytes(w, expert, materialiser.rank) for w in family.weights if w.is_matrix)
        parts += stored // 2 if gpu and expert.reference.lora is None else stored
    model, working = model_bytes(family), (_WORKING + len(family.experts)) * largest_tensor_bytes(family)
    return MemoryNeeds(model, parts, working, pinned_memory_bytes(family) / model if gpu else 1.0)


def host_memory(groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes of host memory that this process can still use: those available, or fewer if its control groups limit it.

    groups: the system's folder of control groups. own: the file that lists this process's own.
    """
    left = [psutil.virtual_memory().available]
    for line in own.read_text().splitlines() if own.is_file() else []:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):  # version 2, or version 1
            mount = groups / controllers
            folder = mount / path.lstrip("/")
            left += [_left(each) for each in (folder, *folder.parents) if each.is_relative_to(mount)]
    return max(min(left), 0)


def _left(group: Path) -> int:
    """Bytes left in a control group: its limit minus its usage, without the system's cached files."""
    for limit, used, files in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most, taken = ((group / name).read_text().strip() for name in (limit, used))
            counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        except OSError:
            continue
        if most != "max":
            return int(most) - int(taken) + int(counts.get(files, 0))
    return sys.maxsize


def placement(
    needed: MemoryNeeds,
    gpu: int | None,
    host: int,
    ranks: int = 1,
    workers_per_host: int = 1,
    place: Place | None = None,
    utilization: float | None = None,
    per_gpu: int = 1,
    shared: int = 0,
) -> Placement:
    """Keep everything on the GPU if that leaves enough for vLLM, else in host memory, else on disk.

    gpu: bytes of one GPU's memory; None without a GPU. host: available bytes of host memory. ranks: of tensor
    parallelism; each builds whole tensors. workers_per_host: workers on this host, which share what is kept in its
    memory. place, utilization: the user's choice, if any. per_gpu: engines that share the GPU. shared: total bytes of
    the host's shared memory.
    """
    if per_gpu > 1 and gpu is not None:
        scaled = None if utilization is None else utilization * per_gpu
        placed = placement(needed, gpu // per_gpu, host, ranks, workers_per_host, place, scaled, shared=shared)
        assert placed.utilization is not None
        cache = max(int(_CACHE * (placed.utilization * (gpu // per_gpu) - needed.model)), 0)
        return replace(placed, utilization=round(placed.utilization / per_gpu, 4), cache=cache)
    processes = ranks * workers_per_host
    in_host: Place = "shared" if processes > 1 and needed.parts + SPARE <= shared else "host"
    parts = needed.parts if in_host == "shared" else processes * needed.parts * needed.pinned

    def chosen(device_room: float) -> Place:
        if place is not None:
            return in_host if place == "host" else place
        if needed.parts + needed.model <= device_room:
            return "device"
        return in_host if parts <= _HOST * host else "disk"

    share = MOST - _LEAST_FOR_CACHE if utilization is None else MOST_OF_GPU - utilization
    room = 0.0 if gpu is None else gpu * share - needed.working - (needed.model / ranks if utilization is None else 0)
    kept = chosen(room)
    taken = needed.parts if kept == "device" else 0
    host_room = _HOST * host - (parts if kept == in_host else 0)
    prefetch: PrefetchPlace = "host" if processes * needed.model * needed.pinned <= host_room else "none"
    if gpu is None:
        return Placement(kept, prefetch, None)
    if taken + needed.model <= room:
        prefetch, taken = "device", taken + needed.model
    left = max(round(MOST - (taken + needed.working) / gpu, 3), 0.05)
    return Placement(kept, prefetch, left if utilization is None else utilization)
