"""Where a worker keeps what children are built from: never more than there is, the fastest that fits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cycleqd_merge.evaluation.placement import Needs, placement

GB = 10**9
LLAMA_8B = Needs(model=16 * GB, parts=86 * GB, working=12 * GB)
SMALL = Needs(model=GB // 4, parts=GB, working=GB // 2)
H100, H200 = 80 * GB, 141 * GB


def test_a_small_family_lives_on_the_gpu() -> None:
    placed = placement(SMALL, H100, 100 * GB)
    assert (placed.place, placed.ahead) == ("device", "device")


def test_an_8b_family_lives_in_host_memory_and_its_next_child_on_the_gpu() -> None:
    placed = placement(LLAMA_8B, H100, 128 * GB)
    assert (placed.place, placed.ahead) == ("host", "device")
    assert placed.utilization is not None
    assert placed.utilization * H100 > LLAMA_8B.model + 15 * GB  # the model, and keys and values


def test_workers_of_one_host_share_its_memory() -> None:
    assert placement(LLAMA_8B, H100, 400 * GB, neighbours=8).place == "shared"
    assert placement(LLAMA_8B, H100, 400 * GB, ranks=4).place == "shared"
    assert placement(LLAMA_8B, H100, 100 * GB, neighbours=8).place == "disk"


def test_what_the_user_chose_stands() -> None:
    assert placement(LLAMA_8B, H100, 128 * GB, place="disk").place == "disk"
    assert placement(SMALL, H100, 128 * GB, utilization=0.5).utilization == 0.5


def test_nothing_is_prepared_where_there_is_no_room() -> None:
    assert placement(LLAMA_8B, None, 20 * GB) == placement(LLAMA_8B, None, 20 * GB, place="disk")
    assert placement(LLAMA_8B, None, 18 * GB).ahead == "none"
    assert placement(Needs(140 * GB, 600 * GB, 12 * GB), H100, 256 * GB, ranks=4).ahead == "none"


@pytest.mark.parametrize("gpu", [None, H100, H200])
@given(
    model=st.integers(1, 200), experts=st.integers(2, 6), host=st.integers(1, 2000), ranks=st.sampled_from([1, 2, 4, 8])
)
def test_no_more_is_taken_than_there_is(gpu: int | None, model: int, experts: int, host: int, ranks: int) -> None:
    needed = Needs(model * GB, (1 + experts) * model * GB, GB)
    placed = placement(needed, gpu, host * GB, ranks)
    on_host = (needed.parts if placed.place in ("host", "shared") else 0) + (
        ranks * needed.model if placed.ahead == "host" else 0
    )
    assert on_host <= host * GB
    if gpu is not None and placed.utilization is not None and placed.utilization > 0.05:
        on_gpu = (needed.parts if placed.place == "device" else 0) + (needed.model if placed.ahead == "device" else 0)
        assert on_gpu + needed.working + placed.utilization * gpu <= 0.91 * gpu


@given(per_gpu=st.integers(2, 16), model=st.integers(1, 8), stated=st.sampled_from([None, 0.05]))
def test_engines_that_share_a_gpu_take_a_part_of_it_each(per_gpu: int, model: int, stated: float | None) -> None:
    needed = Needs(model * GB // 4, model * GB, GB // 4)
    placed = placement(needed, H200, 400 * GB, neighbours=per_gpu, utilization=stated, per_gpu=per_gpu)
    assert placed.utilization is not None
    assert placed.cache is not None
    assert placed.utilization == (stated or placed.utilization)
    on_gpu = (needed.parts if placed.place == "device" else 0) + (needed.model if placed.ahead == "device" else 0)
    if placed.utilization * per_gpu > 0.06:
        assert per_gpu * (on_gpu + needed.working + placed.utilization * H200) <= 0.98 * H200
    assert needed.model + placed.cache <= max(placed.utilization * H200, needed.model)


def test_an_engine_alone_on_its_gpu_lets_vllm_measure_what_is_left_for_keys_and_values() -> None:
    assert placement(SMALL, H100, 100 * GB).cache is None
