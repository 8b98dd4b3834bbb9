"""Bases that keep only the leading directions: the loss is NumPy's, and mutations follow only the kept ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cycleqd_merge.config.evolution import EvolutionConfig
from cycleqd_merge.evolution.genome import Genome, Mutation
from cycleqd_merge.merging.bases import ExpertBases, Rank, prepare_bases
from cycleqd_merge.merging.groups import Groups
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.mergekit_config import configuration_text
from cycleqd_merge.merging.singular import similarity, singular_basis, truncated
from tests.merging.conftest import Trio
from tests.merging.reference import Array, Reference, Tensors, full_task_vector
from tests.merging.test_mergekit import assert_same, family_of, ours

RANK = 5
GENOME = Genome(
    np.array([[0.6], [0.5]]),
    (Mutation("svd", 0, 3, 0.5), Mutation("svd", 1, 8, 0.4, signed=True)),
    np.array([[1.0], [0.7]]),
)


def values_of(vector: Tensors) -> dict[str, Array]:
    """NumPy's singular values of every matrix."""
    return {n: np.linalg.svd(tau, compute_uv=False) for n, tau in vector.items() if tau.ndim == 2 and tau.any()}


def vectors_of(trio: Trio) -> list[Tensors]:
    return [full_task_vector(trio.base, expert) for expert in trio.experts[:2]]


def bases_of(trio: Trio, rank: Rank) -> dict[int, ExpertBases]:
    return prepare_bases(trio.family, [0, 1], rank=rank)


@pytest.mark.parametrize("share", [0.3, 0.9, 0.9999])
def test_a_share_of_the_norm_keeps_the_fewest_directions_that_hold_it(share: float) -> None:
    tau = torch.randn(30, 20, generator=torch.Generator().manual_seed(0))
    energy = np.cumsum(np.linalg.svd(tau.double().numpy(), compute_uv=False) ** 2)
    kept = truncated(singular_basis(tau), share).rank
    assert energy[kept - 1] >= share * energy[-1]
    assert kept == 1 or energy[kept - 2] < share * energy[-1]


@pytest.mark.parametrize("rank", [1, RANK, 10**6])
def test_the_loss_is_reported(llama: Trio, rank: int) -> None:
    for bases, vector in zip(bases_of(llama, rank).values(), vectors_of(llama), strict=True):
        values = values_of(vector)
        whole = sum((s**2).sum() for s in values.values())
        left = sum((s[rank:] ** 2).sum() for s in values.values())
        assert bases.loss == pytest.approx(np.sqrt(left / whole), abs=1e-5)
        assert bases.ranks == {name: min(rank, len(s)) for name, s in values.items()}
        assert 0 < bases.skew < 1e-5


def test_children_are_mutated_along_the_kept_directions(llama: Trio, tmp_path: Path) -> None:
    family = family_of(tmp_path, llama.base, *llama.experts[:2])
    materialiser = Materialiser(family, Groups(family.weights, "one"), prepare_bases(family, [0, 1], rank=RANK))
    reference = Reference(llama.base, vectors_of(llama), RANK)
    for name, tensor in materialiser.tensors(GENOME):
        exact = reference.child(GENOME, name, 0)
        assert np.abs(tensor.double().numpy() - exact).max() <= np.abs(exact).max() * 2.0**-8 + 2e-6


def test_a_model_is_rebuilt_from_its_configuration_on_the_same_directions(llama: Trio, tmp_path: Path) -> None:
    family = family_of(tmp_path, llama.base, *llama.experts[:2])
    materialiser = Materialiser(family, Groups(family.weights, "one"), prepare_bases(family, [0, 1], rank=RANK))
    text = configuration_text(GENOME, materialiser, EvolutionConfig())
    assert_same(ours(text, tmp_path / "merge"), dict(materialiser.tensors(GENOME)))


def test_similarity_is_the_mean_cosine_of_singular_values(llama: Trio) -> None:
    first, second = (dict(bases.values()) for bases in bases_of(llama, None).values())
    one, other = (values_of(vector) for vector in vectors_of(llama))
    cosines = [one[n] @ other[n] / np.linalg.norm(one[n]) / np.linalg.norm(other[n]) for n in one]
    assert similarity(first, second) == pytest.approx(np.mean(cosines), abs=1e-6)
    assert similarity(first, first) == pytest.approx(1.0)
    untouched = {name: values for name, values in second.items() if "mlp" not in name}
    assert similarity(first, untouched) < similarity(first, second)
