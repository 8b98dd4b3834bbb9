"""Genome in, tensors out: one tensor at a time, float32 accumulation, one cast at the end.

    child = base + sum_i c_i tau_i + sum_i U_i diag(m_i s_i) V_i^T

The deltas are summed first, in the order of the experts, then added to the base (mergekit's order), then cast.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod

import numpy as np
import torch
from cachetools import LRUCache
from numpy.typing import NDArray

from cycleqd_merge.errors import UserError
from cycleqd_merge.evolution.draws import normal, uniform
from cycleqd_merge.evolution.genome import Genome, Mutation
from cycleqd_merge.merging.adapter import LowRank
from cycleqd_merge.merging.bases import ExpertBases
from cycleqd_merge.merging.checkpoint import Weight
from cycleqd_merge.merging.family import Family, TaskVector
from cycleqd_merge.merging.groups import Groups
from cycleqd_merge.merging.singular import rescaled

_DRAWS_KEPT = 2**30  # bytes; children share most of their mutations with their parents, so draws are met again


class Materialiser:
    """Builds the tensors of any genome over one family.

    bases: by expert number; needed for those experts only that svd mutations name.
    device: where the arithmetic happens; the same genome gives the same bytes on the same type of device.
    """

    def __init__(
        self,
        family: Family,
        groups: Groups,
        bases: Mapping[int, ExpertBases],
        device: torch.device | str = "cpu",
    ) -> None:
        self.family, self.groups = family, groups
        self.bases, self._device = bases, torch.device(device)
        self._draws: LRUCache[tuple[int, str], NDArray[np.float32]] = LRUCache(_DRAWS_KEPT, lambda draws: draws.nbytes)

    def tensors(self, genome: Genome) -> Iterator[tuple[str, torch.Tensor]]:
        """All tensors of the child as (name, tensor in the checkpoint's dtype on `device`), in checkpoint order."""
        for weight in self.family.weights:
            yield weight.name, self.tensor(genome, weight)

    def tensor(self, genome: Genome, weight: Weight) -> torch.Tensor:
        """One tensor of the child, shape `weight.shape`, dtype `weight.dtype`.

        Raises:
            UserError: the genome holds an svd mutation of an expert whose bases were not given.
        """
        base = self.family.base_tensor(weight).to(self._device)
        group = self.groups.of(weight.name)
        strengths = self._strengths(genome, weight, group)
        delta: torch.Tensor | None = None
        changes = []
        for expert, coefficient in enumerate(genome.coefficients[:, group].tolist()):
            if coefficient == 0.0 and expert not in strengths:
                continue
            vector = self._task_vector(expert, weight, base)
            if vector is None:
                continue
            if expert in strengths:
                changes.append(self._mutated(expert, weight, vector, strengths[expert]))
            if coefficient != 0.0:  # last, for it writes over a dense task vector
                dense = vector.dense() if isinstance(vector, LowRank) else vector
                delta = _add(delta, dense.mul_(coefficient))
        for change in changes:
            delta = _add(delta, change)
        delta = self._add_noise(delta, genome, weight, group)
        return base if delta is None else (base.float() + delta).to(weight.dtype)

    def _task_vector(self, expert: int, weight: Weight, base: torch.Tensor) -> TaskVector | None:
        """The task vector in float32 on the device, as memory that may be written over."""
        vector = self.family.task_vector(expert, weight, base.cpu() if base.device.type != "cpu" else base)
        if isinstance(vector, LowRank):
            return LowRank(vector.left.to(self._device), vector.right.to(self._device), vector.scale)
        return None if vector is None else vector.to(self._device)

    def _strengths(self, genome: Genome, weight: Weight, group: int) -> dict[int, list[tuple[float, Mutation]]]:
        """Svd mutations with a share in the tensor, by expert."""
        strengths: dict[int, list[tuple[float, Mutation]]] = {}
        if weight.is_matrix:
            for mutation, share in zip(genome.mutations, genome.shares[:, group].tolist(), strict=True):
                if mutation.expert is not None and share != 0.0:
                    strengths.setdefault(mutation.expert, []).append((share, mutation))
        return strengths

    def _mutated(
        self, expert: int, weight: Weight, vector: TaskVector, strengths: list[tuple[float, Mutation]]
    ) -> torch.Tensor:
        """U diag(m s) V^T with m the sum of all mutations along one expert, in the tensor's shape."""
        if expert not in self.bases:
            raise UserError(f"the singular bases of expert {self.family.experts[expert].name} are needed and not there")
        basis = self.bases[expert].load(weight.name)
        if basis is None:
            return torch.zeros(weight.shape, device=self._device)
        total = np.zeros(basis.rank)
        for share, mutation in strengths:
            total += share * mutation.scale * self._directions(mutation, weight.name, basis.rank)
        basis = type(basis)(basis.vectors.to(self._device), basis.values, basis.side)
        change = rescaled(vector, basis, torch.from_numpy(total).float().to(self._device))
        return change.reshape(weight.shape)

    def _directions(self, mutation: Mutation, name: str, rank: int) -> NDArray[np.float32]:
        """The draws of one svd mutation for one tensor, shape (rank,): U(0, 1), or U(-1, 1) if signed."""
        key = (mutation.seed, name)
        draws = self._draws.get(key)
        if draws is None:
            draws = uniform(mutation.seed, name, rank).astype(np.float32)
            self._draws[key] = draws
        return 2 * draws - 1 if mutation.signed else draws

    def _add_noise(self, delta: torch.Tensor | None, genome: Genome, weight: Weight, group: int) -> torch.Tensor | None:
        """Add the Gaussian mutations; like svd mutations they leave one-dimensional tensors alone."""
        if weight.is_matrix:
            for mutation, share in zip(genome.mutations, genome.shares[:, group].tolist(), strict=True):
                if mutation.kind == "gaussian" and share != 0.0:
                    noise = torch.from_numpy(normal(mutation.seed, weight.name, prod(weight.shape)))
                    delta = _add(delta, noise.to(self._device).mul_(share * mutation.scale).reshape(weight.shape))
        return delta


def _add(total: torch.Tensor | None, term: torch.Tensor) -> torch.Tensor:
    return term if total is None else total.add_(term)
