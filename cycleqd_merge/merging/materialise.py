"""Build the tensors of a genome: one at a time, accumulated in float32, cast once at the end.

    child = base + sum_i c_i tau_i + sum_i ((f_i + a_i 1^T + 1 b_i^T) * tau_i + U_i diag(m_i s_i) V_i^T)

c is the genome's own, f, a and b are from fits (a coefficient, scales of rows and of columns), and m is from fits and
svd mutations. The deltas are summed first, in the
order of the experts, then added to the base (mergekit's order), then cast.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from cycleqd_merge.errors import ModelError
from cycleqd_merge.evolution.draws import normal
from cycleqd_merge.evolution.genome import Genome, Mutation
from cycleqd_merge.merging.adapter import LowRank
from cycleqd_merge.merging.bases import ExpertBases, Rank
from cycleqd_merge.merging.channels import Channels, rescaled_channels, split_channels
from cycleqd_merge.merging.checkpoint import Weight
from cycleqd_merge.merging.directions import Directions, Strengths
from cycleqd_merge.merging.family import ModelFamily, TaskVector
from cycleqd_merge.merging.fits import read_fit
from cycleqd_merge.merging.groups import Groups
from cycleqd_merge.merging.singular import Basis, as_dense, joined, rescaled, strengthened
from cycleqd_merge.merging.staging import Place, Staging

Mutations = Sequence[tuple[float, Mutation]]
"""The mutations that change a tensor, each with its share in the tensor's group."""


@dataclass(frozen=True)
class Term:
    """What mutations and fits add to a tensor along one expert: (coefficient + a + b) * tau + U diag(m s) V^T.

    channels: a and b, if they are scaled. along: whether there is the last part, with m from `Directions`.
    """

    coefficient: float
    along: bool
    channels: Channels | None = None


class Materialiser:
    """Builds the tensors of any genome over one model family.

    bases: by expert number; needed only for the experts that svd mutations name.
    device: where the arithmetic happens; a genome gives the same bytes on every device of one type.
    place: where tensors are kept between children.
    """

    def __init__(
        self,
        family: ModelFamily,
        groups: Groups,
        bases: Mapping[int, ExpertBases],
        device: torch.device | str = "cpu",
        place: Place = "disk",
    ) -> None:
        self.family, self.groups, self.bases, self.device = family, groups, bases, torch.device(device)
        self.staging = Staging(family, bases, device, place)
        self._directions = Directions(bases, groups)
        self._last: tuple[Genome, Strengths, Strengths] | None = None

    @property
    def rank(self) -> Rank:
        """How the bases are truncated."""
        return next((bases.rank for bases in self.bases.values()), None)

    def tensors(self, genome: Genome) -> Iterator[tuple[str, torch.Tensor]]:
        """All tensors of the child as (name, tensor in the checkpoint's dtype on `device`), in checkpoint order."""
        for weight in self.family.weights:
            yield weight.name, self.tensor(genome, weight)

    def tensor(self, genome: Genome, weight: Weight) -> torch.Tensor:
        """One tensor of the child, shape `weight.shape`, dtype `weight.dtype`.

        Raises:
            ModelError: the genome has an svd mutation along an expert whose bases were not given.
        """
        base = self.staging.base(weight)
        coefficients = genome.coefficients[:, self.groups.of(weight.name)].tolist()
        present = {expert for expert, coefficient in enumerate(coefficients) if coefficient != 0.0}
        wide = base.float()
        terms = self._terms(genome, weight)
        vectors = self._task_vectors(present | terms.keys(), weight, wide)
        change = self._change(genome, weight, terms, vectors)
        delta = task_arithmetic(wide, vectors, coefficients)  # after the change: it overwrites task vectors
        if delta is None and change is None:
            return base
        return _sum(delta, change).add_(wide).to(weight.dtype)

    def change(self, genome: Genome, weight: Weight) -> torch.Tensor | None:
        """The sum of the genome's mutations and fits of one tensor, float32, or None if there are none."""
        wide = self.staging.base(weight).float()
        terms = self._terms(genome, weight)
        return self._change(genome, weight, terms, self._task_vectors(terms.keys(), weight, wide))

    def low_rank(self, genome: Genome, weight: Weight) -> LowRank | None:
        """The change of one tensor as factors, whose rank is the sum of the experts' ranks; None if there is none.

        Raises:
            ModelError: an expert or a mutation changes the tensor by more than low-rank factors.
        """
        if any(mutation.kind == "gaussian" for _, mutation in self._mutations(genome, weight)):
            raise ModelError("this model cannot be an adapter: Gaussian mutations have full rank")
        coefficients = genome.coefficients[:, self.groups.of(weight.name)].tolist()
        terms, none = self._terms(genome, weight), Term(0.0, along=False)
        changed = terms.keys() | {expert for expert, coefficient in enumerate(coefficients) if coefficient != 0.0}
        parts = []
        for expert, vector in sorted(self._task_vectors(changed, weight, self.staging.base(weight).float()).items()):
            if not isinstance(vector, LowRank):
                name = self.family.experts[expert].name
                raise ModelError(
                    f"this model cannot be an adapter: expert {name} changes {weight.name} by more than factors"
                )
            term = terms.get(expert, none)
            basis, m = self._along(genome, weight, expert, term)
            parts += _low_rank_parts(vector, term, coefficients[expert] + term.coefficient, basis, m)
        return joined(parts) if parts else None

    def _change(
        self, genome: Genome, weight: Weight, terms: Mapping[int, Term], vectors: Mapping[int, TaskVector]
    ) -> torch.Tensor | None:
        total, low = None, []
        for expert, term in terms.items():
            if expert not in vectors:
                continue
            vector = vectors[expert]
            basis, m = self._along(genome, weight, expert, term)
            if isinstance(vector, LowRank):
                low += _low_rank_parts(vector, term, term.coefficient, basis, m)
                continue
            if term.channels is not None:
                scaled = as_dense(rescaled_channels(vector, term.channels, term.coefficient))
                total = _sum(total, scaled.reshape(weight.shape))
            elif term.coefficient != 0.0:
                total = _sum(total, vector * term.coefficient)
            if basis is not None and m is not None:
                total = _sum(total, as_dense(rescaled(vector, basis, m)).reshape(weight.shape))
        if low:
            total = _sum(total, joined(low).dense().reshape(weight.shape))
        return self._add_noise(total, self._mutations(genome, weight), weight)

    def _along(
        self, genome: Genome, weight: Weight, expert: int, term: Term
    ) -> tuple[Basis, torch.Tensor] | tuple[None, None]:
        """An expert's singular basis of a tensor, and m, shape (rank,); None if a term has no such part."""
        basis = self.staging.basis(expert, weight.name) if term.along else None
        return (None, None) if basis is None else (basis, self._strengths(genome)[0][expert, weight.name])

    def _terms(self, genome: Genome, weight: Weight) -> dict[int, Term]:
        """The terms of a tensor by expert, in the order of the experts."""
        along = {mutation.expert for _, mutation in self._mutations(genome, weight) if mutation.expert is not None}
        coefficients: dict[int, float] = {}
        channels: dict[int, Channels] = {}
        for digest, share in zip(genome.fits, genome.fit_shares[:, self.groups.of(weight.name)].tolist(), strict=True):
            if share != 0.0:
                fit = read_fit(digest)
                along |= {expert for expert in fit.scaled_experts("singular") if weight.name in fit.sizes[expert]}
                for expert in fit.scaled_experts("channel"):
                    if weight.name in fit.sizes[expert]:
                        channels[expert] = split_channels(self._strengths(genome)[1][expert, weight.name], weight.shape)
                for expert, coefficient in enumerate(fit.coefficients_of(weight.name)):
                    coefficients[expert] = coefficients.get(expert, 0.0) + share * coefficient
        fitted = {expert for expert, coefficient in coefficients.items() if coefficient != 0.0} | channels.keys()
        return {
            expert: Term(coefficients.get(expert, 0.0), expert in along, channels.get(expert))
            for expert in sorted(fitted | along)
        }

    def _task_vectors(self, experts: Set[int], weight: Weight, base: torch.Tensor) -> dict[int, TaskVector]:
        """Task vectors by expert, in float32 on the device, in memory that the caller may overwrite."""
        vectors = {expert: self.staging.task_vector(expert, weight, base) for expert in sorted(experts)}
        return {expert: vector for expert, vector in vectors.items() if vector is not None}

    def _strengths(self, genome: Genome) -> tuple[Strengths, Strengths]:
        """Of every tensor, m, and a and b in one; kept while the same genome is being built."""
        if self._last is None or self._last[0] is not genome:
            m, channels = (of(genome, self.device) for of in (self._directions.strengths, self._directions.channels))
            self._last = genome, m, channels
        return self._last[1:]

    def _mutations(self, genome: Genome, weight: Weight) -> Mutations:
        """The mutations that change a tensor, with their shares in its group; none for a one-dimensional tensor."""
        if not weight.is_matrix or not genome.mutations:
            return []
        shares = genome.shares[:, self.groups.of(weight.name)].tolist()
        return [(share, mutation) for share, mutation in zip(shares, genome.mutations, strict=True) if share != 0.0]

    def _add_noise(self, total: torch.Tensor | None, mutations: Mutations, weight: Weight) -> torch.Tensor | None:
        for share, mutation in mutations:
            if mutation.kind == "gaussian":
                noise = torch.from_numpy(normal(mutation.seed, weight.name, prod(weight.shape)))
                total = _sum(total, noise.to(self.device).mul_(share * mutation.scale).reshape(weight.shape))
        return total


def task_arithmetic(
    base: torch.Tensor, vectors: Mapping[int, TaskVector], coefficients: Sequence[float]
) -> torch.Tensor | None:
    """sum_i c_i tau_i in the order of the experts, float32; None if all are 0. Overwrites dense vectors.

    base: float32. A low-rank tau is rounded as if its adapter were merged into the base, which is what mergekit does.
    """
    total = None
    for expert in sorted(vectors):
        if coefficients[expert] != 0.0:
            vector = vectors[expert]
            dense = vector.dense().add_(base).sub_(base) if isinstance(vector, LowRank) else vector
            total = _sum(total, dense.mul_(coefficients[expert]))
    return total


def _low_rank_parts(
    vector: LowRank, term: Term, coefficient: float, basis: Basis | None, m: torch.Tensor | None
) -> list[LowRank]:
    """What a term adds along a low-rank task vector, with `coefficient` instead of its own."""
    if term.channels is None:
        return [] if basis is None and coefficient == 0.0 else [strengthened(vector, basis, m, coefficient)]
    change = rescaled_channels(vector, term.channels, coefficient)
    assert isinstance(change, LowRank)
    return [change] if basis is None else [change, strengthened(vector, basis, m, 0.0)]


def _sum(total: torch.Tensor | None, term: torch.Tensor | None) -> Any:
    """The sum of the terms that are not None, in place in the first."""
    if total is None:
        return term
    return total if term is None else total.add_(term)
