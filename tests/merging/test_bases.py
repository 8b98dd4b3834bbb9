"""Singular bases span the subspaces that numpy finds; they are computed once, by any number of processes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cycleqd_merge.evolution.draws import new_seed
from cycleqd_merge.merging.adapter import LowRank
from cycleqd_merge.merging.bases import ExpertBases, basis_folder, prepare_bases
from cycleqd_merge.merging.family import ModelFamily
from cycleqd_merge.merging.singular import rescaled, singular_basis
from tests.merging.conftest import Trio
from tests.merging.processes import Report
from tests.merging.reference import Array
from tests.models import make_base, make_expert, make_recipe, open_recipe_family, read_tensors, write_tensors

SHAPES = {"tall": (40, 12), "wide": (12, 40), "square": (24, 24), "convolution": (16, 4, 3, 3)}


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).float()


def by_numpy(tau: Array, weights: Array) -> Array:
    """U diag(weights * s) V^T of a matrix; weights beyond its rank are ignored."""
    u, s, vh = np.linalg.svd(tau, full_matrices=False)
    return np.asarray((u[:, : len(weights)] * (weights * s[: len(weights)])) @ vh[: len(weights)])


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_dense_task_vector_is_strengthened_along_numpys_singular_directions(shape: tuple[int, ...]) -> None:
    tau = random(0, *shape)
    basis = singular_basis(tau)
    matrix = tau.double().numpy().reshape(shape[0], -1)  # output x rest
    assert basis.rank == min(matrix.shape)
    assert basis.vectors.shape == (min(matrix.shape), basis.rank)
    weights = random(1, basis.rank)
    wanted = by_numpy(matrix, weights.double().numpy())
    np.testing.assert_allclose(rescaled(tau, basis, weights).numpy(), wanted, atol=2e-5)


@pytest.mark.parametrize("shape", [(40, 12), (12, 40), (24, 24)], ids=["tall", "wide", "square"])
@pytest.mark.parametrize("rank", [1, 5, 30])
def test_low_rank_task_vector_is_strengthened_along_numpys_singular_directions(
    shape: tuple[int, int], rank: int
) -> None:
    vector = LowRank(random(0, shape[0], rank), random(1, rank, shape[1]), scale=0.25)
    basis = singular_basis(vector)
    assert basis.rank == min(rank, *shape)
    weights = random(2, basis.rank)
    wanted = by_numpy(vector.dense().double().numpy(), weights.double().numpy())
    np.testing.assert_allclose(rescaled(vector, basis, weights).dense().numpy(), wanted, atol=5e-5)


@pytest.mark.parametrize("vector", [random(0, 20, 9), LowRank(random(0, 20, 4), random(1, 4, 9), 0.5)])
def test_singular_values_are_numpys_in_descending_order(vector: torch.Tensor | LowRank) -> None:
    dense = vector.dense() if isinstance(vector, LowRank) else vector
    basis = singular_basis(vector)
    wanted = np.linalg.svd(dense.double().numpy(), compute_uv=False)[: basis.rank]
    np.testing.assert_allclose(basis.values.numpy(), wanted, rtol=1e-5)


@pytest.mark.parametrize("shape", [(40, 6), (6, 40)])
def test_small_singular_values_keep_their_digits(shape: tuple[int, int]) -> None:
    """A Gram matrix in float32 would lose those below 1e-3 of the largest."""
    left, right = (np.linalg.qr(random(seed, size, 6).double().numpy())[0] for seed, size in enumerate(shape))
    tau = torch.from_numpy((left * 10.0 ** -np.arange(6)) @ right.T).float()
    wanted = np.linalg.svd(tau.double().numpy(), compute_uv=False)
    np.testing.assert_allclose(singular_basis(tau).values.numpy(), wanted, rtol=1e-4)


@pytest.mark.parametrize("shape", [(20, 9), (9, 20)])
def test_vectors_are_orthonormal_even_if_singular_values_vanish(shape: tuple[int, int]) -> None:
    tau = random(0, shape[0], 3) @ random(1, 3, shape[1])
    basis = singular_basis(tau)
    np.testing.assert_allclose((basis.vectors.T @ basis.vectors).numpy(), np.eye(9), atol=1e-5)
    np.testing.assert_allclose(basis.values[3:].numpy(), 0.0, atol=1e-4)
    np.testing.assert_allclose(rescaled(tau, basis, torch.ones(9)).numpy(), tau.numpy(), atol=2e-5)


def test_stored_basis_is_that_of_the_experts_task_vector(trio: Trio) -> None:
    for expert, bases in prepare_bases(trio.family, range(3)).items():
        for weight in trio.family.weights:
            vector = trio.family.task_vector(expert, weight, trio.family.base_tensor(weight))
            stored = bases.load(weight.name)
            if vector is None or not weight.is_matrix:
                assert stored is None
                continue
            assert stored is not None
            wanted = singular_basis(vector)
            assert stored.side == wanted.side
            assert torch.equal(stored.vectors, wanted.vectors)
            assert torch.equal(stored.values, wanted.values)


@pytest.fixture
def pair(tmp_path: Path) -> ModelFamily:
    """A family of its own, whose bases no other test has cached."""
    return open_pair(tmp_path)


def open_pair(folder: Path) -> ModelFamily:
    base = folder / "base"
    if not base.exists():
        make_base(base, seed=new_seed(folder.name) % 2**31)
        for seed, name in enumerate(("first", "second")):
            make_expert(base, folder / name, seed)
    return open_recipe_family(make_recipe(folder, base, {"first": folder / "first", "second": folder / "second"}))


def times(folder: Path) -> dict[str, int]:
    """The time at which each file of a folder was last written."""
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_an_interrupted_computation_resumes_where_it_stopped(pair: ModelFamily) -> None:
    whole = prepare_bases(pair, [0])[0].digest
    folder = basis_folder(pair, 0)
    removed = {"manifest.json", *sorted(path.name for path in folder.glob("*.safetensors"))[::3]}
    before = times(folder)
    for name in removed:
        (folder / name).unlink()
    done: list[tuple[str, int, int]] = []
    assert prepare_bases(pair, [0], lambda *step: done.append(step))[0].digest == whole
    after = times(folder)
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} == removed
    assert done[-1] == ("first", len(done), len(done))


def test_bases_are_computed_once(pair: ModelFamily) -> None:
    prepare_bases(pair, [0])
    before = times(basis_folder(pair, 0))
    done: list[tuple[str, int, int]] = []
    prepare_bases(pair, [0], lambda *step: done.append(step))
    assert times(basis_folder(pair, 0)) == before
    assert done == []


def test_no_unfinished_files_are_left_behind(pair: ModelFamily) -> None:
    prepare_bases(pair, [0])
    names = [weight.name for weight in pair.weights if weight.is_matrix]
    assert set(times(basis_folder(pair, 0))) == {"manifest.json", *(f"{name}.safetensors" for name in names)}


def test_only_the_requested_experts_are_computed(pair: ModelFamily) -> None:
    assert prepare_bases(pair, [1]).keys() == {1}
    assert not (basis_folder(pair, 0) / "manifest.json").exists()


def test_copies_of_the_same_models_share_their_bases(pair: ModelFamily, tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "base", tmp_path / "copy" / "base")
    for name in ("first", "second"):
        shutil.copytree(tmp_path / name, tmp_path / "copy" / name)
    assert basis_folder(open_pair(tmp_path / "copy"), 0) == basis_folder(pair, 0)


@pytest.mark.parametrize("changed", ["base", "first"])
def test_different_contents_have_different_bases(pair: ModelFamily, tmp_path: Path, changed: str) -> None:
    before, untouched = basis_folder(pair, 0), basis_folder(pair, 1)
    tensors = read_tensors(tmp_path / changed)
    tensors["model.norm.weight"][0] += 1
    write_tensors(tmp_path / changed, tensors)
    reopened = open_pair(tmp_path)
    assert basis_folder(reopened, 0) != before
    assert (basis_folder(reopened, 1) == untouched) == (changed == "first")


def test_the_digest_of_bases_depends_on_their_contents(pair: ModelFamily) -> None:
    bases = prepare_bases(pair, [0, 1])
    assert bases[0].digest != bases[1].digest
    assert ExpertBases(basis_folder(pair, 0)).digest == bases[0].digest


def test_two_processes_share_the_work_and_get_the_result_of_one(llama: Trio, elsewhere: list[Report]) -> None:
    alone = [bases.digest for bases in prepare_bases(llama.family, range(3)).values()]
    matrices = sum(weight.is_matrix for weight in llama.family.weights)
    assert [report["bases"] for report in elsewhere] == [alone, alone]
    assert [report["processes"] for report in elsewhere] == [2, 2]
    assert elsewhere[0]["part"] == matrices / 2
