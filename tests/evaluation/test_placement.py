"""Where a worker keeps the parts of children: in the fastest place with enough memory."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cycleqd_merge.evaluation.engines.placement import MemoryNeeds, host_memory, placement

GB = 10**9
LLAMA_8B = MemoryNeeds(model=16 * GB, parts=86 * GB, working=12 * GB)
SMALL = MemoryNeeds(model=GB // 4, parts=GB, working=GB // 2)
H100, H200 = 80 * GB, 141 * GB


def test_a_small_family_is_kept_on_the_gpu() -> None:
    placed = placement(SMALL, H100, 100 * GB)
    assert (placed.place, placed.prefetch) == ("device", "device")


def test_an_8b_family_is_kept_in_host_memory_and_its_next_child_on_the_gpu() -> None:
    placed = placement(LLAMA_8B, H100, 128 * GB)
    assert (placed.place, placed.prefetch) == ("host", "device")
    assert placed.utilization is not None
    assert placed.utilization * H100 > LLAMA_8B.model + 15 * GB  # the model, and the KV cache


def test_workers_of_one_host_share_its_memory() -> None:
    assert placement(LLAMA_8B, H100, 400 * GB, workers_per_host=8, shared=200 * GB).place == "shared"
    assert placement(LLAMA_8B, H100, 400 * GB, ranks=4, shared=200 * GB).place == "shared"
    assert placement(LLAMA_8B, H100, 100 * GB, workers_per_host=8, shared=200 * GB).place == "disk"


def test_the_small_shared_memory_of_a_container_is_not_used() -> None:
    assert placement(LLAMA_8B, H100, 400 * GB, workers_per_host=8, shared=2**26).place == "disk"
    assert placement(LLAMA_8B, H100, 2000 * GB, workers_per_host=8, shared=2**26).place == "host"  # a copy for each


def test_rounding_up_in_pinned_memory_is_counted() -> None:
    qwen_7b = MemoryNeeds(model=15 * GB, parts=72 * GB, working=12 * GB, pinned=1.9)
    assert placement(qwen_7b, H100, 128 * GB).place == "disk"
    assert placement(qwen_7b, H100, 180 * GB).place == "host"
    assert (
        placement(qwen_7b, H100, 128 * GB, workers_per_host=2, shared=100 * GB).place == "shared"
    )  # mapped, not rounded up


@pytest.mark.parametrize("version", [1, 2])
def test_control_groups_limit_the_available_memory(tmp_path: Path, version: int) -> None:
    mount = tmp_path / "groups" / ("memory" if version == 1 else "")
    names = ("memory.max", "memory.current", "inactive_file")
    if version == 1:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    own = tmp_path / "own"
    own.write_text("4:memory:/pod/box\n3:cpu,cpuacct:/x\n" if version == 1 else "0::/pod/box\n")
    free = host_memory(tmp_path / "none", own)
    assert free == pytest.approx(psutil.virtual_memory().available, rel=0.2)
    for folder, limit in ((mount / "pod" / "box", 10**18), (mount / "pod", 3000), (mount, 10**18)):
        folder.mkdir(parents=True, exist_ok=True)
        for name, value in zip((*names[:2], "memory.stat"), (limit, 1200, f"anon 5\n{names[2]} 200"), strict=True):
            (folder / name).write_text(f"{value}\n")
    assert host_memory(tmp_path / "groups", own) == 3000 - 1200 + 200


def test_the_user_s_choice_is_kept() -> None:
    assert placement(LLAMA_8B, H100, 128 * GB, place="disk").place == "disk"
    assert placement(SMALL, H100, 128 * GB, utilization=0.5).utilization == 0.5


def test_no_child_is_prefetched_without_memory_for_it() -> None:
    assert placement(LLAMA_8B, None, 20 * GB) == placement(LLAMA_8B, None, 20 * GB, place="disk")
    assert placement(LLAMA_8B, None, 18 * GB).prefetch == "none"
    assert placement(MemoryNeeds(140 * GB, 600 * GB, 12 * GB), H100, 256 * GB, ranks=4).prefetch == "none"


@pytest.mark.parametrize("gpu", [None, H100, H200])
@given(
    model=st.integers(1, 200),
    experts=st.integers(2, 6),
    host=st.integers(1, 2000),
    ranks=st.sampled_from([1, 2, 4, 8]),
    shared=st.integers(0, 2000),
)
def test_no_more_memory_is_used_than_available(
    gpu: int | None, model: int, experts: int, host: int, ranks: int, shared: int
) -> None:
    needed = MemoryNeeds(model * GB, (1 + experts) * model * GB, GB)
    placed = placement(needed, gpu, host * GB, ranks, shared=shared * GB)
    copies = {"shared": 1, "host": ranks}.get(placed.place, 0)
    on_host = copies * needed.parts + (ranks * needed.model if placed.prefetch == "host" else 0)
    assert on_host <= host * GB
    if gpu is not None and placed.utilization is not None and placed.utilization > 0.05:
        on_gpu = (needed.parts if placed.place == "device" else 0) + (
            needed.model if placed.prefetch == "device" else 0
        )
        assert on_gpu + needed.working + placed.utilization * gpu <= 0.91 * gpu


@given(per_gpu=st.integers(2, 12), model=st.integers(1, 8))
def test_engines_that_share_a_gpu_get_a_part_of_it_each(per_gpu: int, model: int) -> None:
    needed = MemoryNeeds(model * GB // 4, model * GB, GB // 4)
    alone = placement(needed, H200 // per_gpu, 400 * GB, workers_per_host=per_gpu)
    shared = placement(needed, H200, 400 * GB, workers_per_host=per_gpu, per_gpu=per_gpu)
    assert (shared.place, shared.prefetch) == (alone.place, alone.prefetch)
    assert alone.utilization is not None
    assert shared.utilization == pytest.approx(alone.utilization / per_gpu, abs=1e-4)
    assert shared.cache is not None
    assert shared.cache + needed.model < shared.utilization * H200 or shared.cache == 0


def test_the_kv_cache_gets_most_of_an_engine_s_part() -> None:
    placed = placement(MemoryNeeds(GB, GB, GB), 100 * GB, 100 * GB, place="disk", utilization=0.2, per_gpu=4)
    assert (placed.utilization, placed.cache) == (0.2, int(0.7 * (20 * GB - GB)))
    assert placement(MemoryNeeds(16 * GB, 64 * GB, GB), H200, 400 * GB, per_gpu=8).cache == 0


def test_with_one_engine_per_gpu_vllm_measures_the_room_for_the_kv_cache() -> None:
    assert placement(SMALL, H100, 100 * GB).cache is None
