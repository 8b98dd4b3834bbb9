"""Merges matrix by matrix, against slow NumPy versions of the papers' equations and against their properties."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from mergekit.merge_methods import TensorGroup, merge_tensors
from mergekit.merge_methods.base import TensorMetadata
from mergekit.merge_methods.registry import get

from cycleqd_merge.config.strategies import MergekitConfig
from cycleqd_merge.evolution.candidate import MergekitConfiguration
from cycleqd_merge.merging.adapter import LowRank
from cycleqd_merge.merging.matrix_merges import iso_c, low_rank, sign_aligned, swudi, tsv, wudi
from cycleqd_merge.merging.merge_grid import static_merges
from cycleqd_merge.merging.mergekit_matrix_merges import MATRIX_MERGES
from cycleqd_merge.merging.mergekit_run import merge_to_disk, merged_tensors, write_merge
from tests.merging.conftest import Trio
from tests.models import read_tensors

Arrays = list[np.ndarray]
SHAPES = [(12, 8), (8, 12), (9, 9), (1, 6), (7, 2)]


def random(shape: tuple[int, ...], count: int = 3, seed: int = 0) -> list[torch.Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=draws) for _ in range(count)]


def low(shape: tuple[int, int], ranks: tuple[int, ...] = (2, 3, 1)) -> list[LowRank]:
    return [
        LowRank(*random((shape[0], rank), 1, rank), *random((rank, shape[1]), 1, 9 + rank), scale=0.5) for rank in ranks
    ]


def numbers(vectors: list[torch.Tensor]) -> Arrays:
    return [vector.double().numpy() for vector in vectors]


def close(found: torch.Tensor, wanted: np.ndarray | torch.Tensor, tolerance: float = 1e-5) -> None:
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), np.asarray(wanted), atol=tolerance, rtol=tolerance)


def numpy_tsv(vectors: Arrays, rank: int) -> np.ndarray:
    """Algorithm 1 of the paper: truncated SVDs, concatenated; each side replaced by its Procrustes solution."""
    parts = [np.linalg.svd(vector, full_matrices=False) for vector in vectors]
    left = np.concatenate([u[:, :rank] for u, _, _ in parts], axis=1)
    values = np.concatenate([s[:rank] for _, s, _ in parts])
    right = np.concatenate([v[:rank] for _, _, v in parts], axis=0)
    p, _, q = np.linalg.svd(left, full_matrices=False)
    r, _, t = np.linalg.svd(right, full_matrices=False)
    return (p @ q) @ np.diag(values) @ (r @ t)


def numpy_iso_c(vectors: Arrays) -> np.ndarray:
    u, s, v = np.linalg.svd(sum(vectors), full_matrices=False)
    return s.mean() * u @ v


def interference(x: np.ndarray, vectors: Arrays) -> float:
    """The objective of WUDI (equation 11)."""
    return sum(float(np.sum(((x - v) @ v.T) ** 2) / np.sum(v**2)) for v in vectors)


def interference_gradient(x: np.ndarray, vectors: Arrays) -> np.ndarray:
    found = np.zeros_like(x)
    for v in vectors:
        found += 2 * ((x - v) @ v.T) @ v / np.sum(v**2)
    return found


def numpy_wudi(vectors: Arrays, steps: int, rate: float) -> np.ndarray:
    x = sum(vectors)
    m, v = np.zeros_like(x), np.zeros_like(x)
    for step in range(1, steps + 1):
        gradient = interference_gradient(x, vectors)
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        x = x - rate * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
    return x


def numpy_flow(vectors: Arrays, time: float, steps: int = 4000) -> np.ndarray:
    """The gradient flow of half the objective, by Heun's method in small steps."""
    x = sum(vectors)
    for _ in range(steps):
        slope = interference_gradient(x, vectors) / 2
        ahead = interference_gradient(x - time / steps * slope, vectors) / 2
        x = x - time / steps * (slope + ahead) / 2
    return x


@pytest.mark.parametrize("shape", SHAPES)
def test_tsv_is_the_papers(shape: tuple[int, int]) -> None:
    vectors, rank = random(shape), max(1, min(shape) // 3)
    if min(shape) < 3:  # fewer dimensions than directions: the paper's singular vectors of d = 0 are arbitrary
        assert torch.isfinite(tsv(vectors, rank)).all()
        return
    close(tsv(vectors, rank), numpy_tsv(numbers(vectors), rank))


def test_tsv_of_experts_without_common_directions_is_their_sum() -> None:
    vectors = [torch.zeros(9, 12) for _ in range(3)]
    for number, block in enumerate(random((3, 4))):
        vectors[number][3 * number : 3 * number + 3, 4 * number : 4 * number + 4] = block
    close(tsv(vectors, 3), sum(vectors))


def test_tsv_of_equal_experts_is_one_of_them_truncated() -> None:
    vector = random((9, 12), 1)[0]
    u, s, v = np.linalg.svd(vector.double().numpy(), full_matrices=False)
    close(tsv([vector] * 3, 3), u[:, :3] @ np.diag(s[:3]) @ v[:3])


@pytest.mark.parametrize("shape", SHAPES)
def test_iso_c_is_the_papers(shape: tuple[int, int]) -> None:
    vectors = random(shape)
    close(iso_c(vectors), numpy_iso_c(numbers(vectors)))


def test_iso_c_has_one_singular_value_on_the_directions_of_the_sum() -> None:
    """Of rank 6: the other directions of a sum of adapters are rounding, and stay empty."""
    vectors = [vector.dense() for vector in low((20, 30))]
    total, merged = np.sum(numbers(vectors), axis=0), iso_c(vectors).double().numpy()
    values = np.linalg.svd(merged, compute_uv=False)
    np.testing.assert_allclose(values[:6], np.linalg.svd(total, compute_uv=False)[:6].mean(), rtol=1e-5)
    assert values[6] < 1e-5


def test_rounding_of_a_merged_adapter_is_no_direction() -> None:
    """base + adapter - base in float32 is the adapter and noise of full rank, which decides nothing."""
    exact = [vector.dense() for vector in low((40, 60))]
    base = random((40, 60), 1, 5)[0]
    rounded = [base + vector - base for vector in exact]
    for merge in (partial(tsv, rank=13), iso_c, partial(swudi, time=300.0, rank=51)):
        assert (merge(rounded) - merge(exact)).abs().max() < 1e-3 * merge(exact).abs().max()


@pytest.mark.parametrize("shape", SHAPES)
def test_wudi_is_the_papers(shape: tuple[int, int]) -> None:
    vectors = [0.01 * vector for vector in random(shape)]
    close(wudi(vectors, 50, 1e-4), numpy_wudi(numbers(vectors), 50, 1e-4), 2e-5)


def test_wudi_lowers_the_interference() -> None:
    vectors = [0.01 * vector for vector in random((12, 8))]
    before = interference(sum(numbers(vectors)), numbers(vectors))
    assert interference(wudi(vectors, 300, 1e-4).double().numpy(), numbers(vectors)) < 0.5 * before


@pytest.mark.parametrize("shape", SHAPES)
def test_swudi_is_the_gradient_flow_of_wudis_objective(shape: tuple[int, int]) -> None:
    vectors = random(shape)
    close(swudi(vectors, 2.0, shape[1]), numpy_flow(numbers(vectors), 2.0))


def test_swudi_leaves_weak_input_directions_at_the_sum() -> None:
    vectors = random((12, 8))
    gram = sum(v.T @ v / np.sum(v**2) for v in numbers(vectors))
    weak = np.linalg.eigh(gram)[1][:, :3]
    change = swudi(vectors, 1e6, 5).double().numpy() - np.sum(numbers(vectors), axis=0)
    assert np.abs(change @ weak).max() < 1e-5
    assert np.abs(change).max() > 0.1


def test_swudi_after_all_time_has_the_least_interference() -> None:
    vectors = random((12, 8))
    rows = np.concatenate([v / np.linalg.norm(v) for v in numbers(vectors)])
    goals = np.concatenate([v @ v.T / np.linalg.norm(v) for v in numbers(vectors)])
    close(swudi(vectors, 1e9, 8), np.linalg.lstsq(rows, goals, rcond=None)[0].T, 1e-4)


def test_sign_aligned_parts_sum_to_ties_without_trimming() -> None:
    base, *experts = random((6, 5), 4)
    parts = sign_aligned([expert - base for expert in experts])
    weights = {"weight": 1.0, "density": 1.0, "normalize": False}
    ties = merge_tensors([base, *experts], "ties", parameters=weights, base_index=0)
    close(base + sum(parts), ties)
    assert all(((part == 0) | (part == expert - base)).all() for part, expert in zip(parts, experts, strict=True))
    assert not any((one * other < 0).any() for one in parts for other in parts)


@pytest.mark.parametrize("merge", [partial(tsv, rank=6), iso_c, partial(swudi, time=3.0, rank=30)])
@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (4, 30)])
def test_low_rank_merges_equal_those_of_full_matrices(merge: Callable, shape: tuple[int, int]) -> None:
    vectors = low(shape)
    close(low_rank(vectors, merge).dense(), merge([vector.dense() for vector in vectors]), 1e-4)


def test_an_expert_that_equals_the_base_changes_nothing() -> None:
    vectors, none = random((6, 8)), torch.zeros(6, 8)
    for merge in (partial(tsv, rank=2), iso_c, partial(wudi, steps=5, learning_rate=1e-4)):
        close(merge([*vectors, none]), merge(vectors))
        assert not merge([none, none]).any()
    assert not swudi([none, none], 300.0, 8).any()


@pytest.mark.parametrize("name", MATRIX_MERGES)
@pytest.mark.parametrize(("shape", "axis"), [((6,), None), ((12, 4), 0), ((2, 3, 2, 2), None)])
def test_other_tensors_get_the_mean(name: str, shape: tuple[int, ...], axis: int | None) -> None:
    if name == "sign_aligned":
        return
    tensors = random(shape, 4)
    group = TensorGroup.from_tensors(tensors, base_index=0, name="other", vocabulary_axis=axis)
    assert group.metadata == TensorMetadata("other", axis)
    base, *experts = tensors
    wanted = base + 0.7 * (torch.stack(experts).mean(0) - base)
    (found,) = get(name)((group,), parameters={"scale": 0.7})
    close(found, wanted)


@pytest.mark.parametrize("name", MATRIX_MERGES)
def test_packed_experts_are_merged_one_by_one(name: str) -> None:
    """A tensor of three dimensions is a stack of matrices."""
    tensors = random((2, 6, 8), 4)
    whole = merge_tensors(tensors, name, base_index=0, parameters=weight(name))
    for number in range(2):
        single = merge_tensors([t[number] for t in tensors], name, base_index=0, parameters=weight(name))
        close(whole[number], single)


def weight(name: str) -> dict[str, float]:
    return {"weight": 1.0} if name == "sign_aligned" else {}


@pytest.fixture(scope="module")
def candidates(llama: Trio) -> dict[str, MergekitConfiguration]:
    """The first static merge by every method."""
    found: dict[str, MergekitConfiguration] = {}
    for configuration, step in static_merges(llama.recipe, MergekitConfig(kind="mergekit", methods=[*MATRIX_MERGES])):
        found.setdefault(step["merge"], configuration)
    return found


@pytest.mark.parametrize("name", MATRIX_MERGES)
def test_a_static_merge_follows_from_its_configuration(
    llama: Trio, candidates: dict[str, MergekitConfiguration], tmp_path: Path, name: str
) -> None:
    """Two full experts and an adapter: what an engine receives, an export has, and `cycleqd-merge merge` rebuilds."""
    found = dict(merged_tensors(candidates[name], llama.family))
    write_merge(candidates[name], llama.family, tmp_path / "export")
    record = yaml.safe_load(candidates[name].yaml) | {"out_dtype": "bfloat16"}
    (tmp_path / "config.yml").write_text(yaml.safe_dump(record))
    merge_to_disk(tmp_path / "config.yml", tmp_path / "rebuilt", seed=candidates[name].seed)
    exported, rebuilt = read_tensors(tmp_path / "export"), read_tensors(tmp_path / "rebuilt")
    assert found.keys() == exported.keys() == rebuilt.keys()
    for key, tensor in found.items():
        assert torch.equal(tensor, exported[key].to(tensor.dtype)), key
        assert torch.equal(tensor, rebuilt[key]), key
