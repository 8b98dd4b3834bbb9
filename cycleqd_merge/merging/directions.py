"""How much a genome's svd mutations and fits strengthen each singular direction: m in the formula of a child."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from cachetools import LRUCache
from numpy.typing import NDArray

from cycleqd_merge.evolution.draws import uniform
from cycleqd_merge.evolution.genome import Genome, Mutation
from cycleqd_merge.merging.bases import ExpertBases
from cycleqd_merge.merging.fits import read_fit
from cycleqd_merge.merging.groups import Groups

DRAWS_KEPT = 2**30  # bytes; children share most of their mutations with their parents, so draws are reused

Strengths = dict[tuple[int, str], torch.Tensor]
"""m by expert number and tensor name, each of shape (rank,), float32."""


class Directions:
    """The singular directions of the experts' task vectors: those of one expert in one array, tensor after tensor.

    With the draws of a mutation for all tensors of an expert in one array, a child with hundreds of mutations needs one
    product and one sum per mutation, instead of one per mutation and tensor.
    """

    def __init__(self, bases: Mapping[int, ExpertBases], groups: Groups) -> None:
        self._ranks = {expert: stored.ranks for expert, stored in bases.items()}
        self._groups = {
            expert: np.repeat([groups.of(name) for name in ranks], list(ranks.values()))
            for expert, ranks in self._ranks.items()
        }
        self._draws: LRUCache[tuple[int, int], NDArray[np.float32]] = LRUCache(DRAWS_KEPT, lambda draws: draws.nbytes)

    def strengths(self, genome: Genome, device: torch.device) -> Strengths:
        """m of every tensor along whose singular directions the genome's mutations and fits change it, on `device`.

        Raises:
            ModelError: a fit is not in the cache, or was learned on other singular bases.
        """
        found: Strengths = {}
        for expert, ranks in self._ranks.items():
            terms = [
                ((shares * mutation.scale).astype(np.float32), self._drawn(expert, mutation))
                for mutation, shares in zip(genome.mutations, genome.shares, strict=True)
                if mutation.expert == expert
            ]
            for digest, shares in zip(genome.fits, genome.fit_shares, strict=True):
                scales = read_fit(digest).scales_along(expert, ranks)
                if scales is not None:
                    terms.append((shares.astype(np.float32), scales))
            if terms:
                total = torch.from_numpy(self._total(expert, terms)).to(device)
                found |= {(expert, n): m for n, m in zip(ranks, total.split(list(ranks.values())), strict=True)}
        return found

    def _total(
        self, expert: int, terms: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]]
    ) -> NDArray[np.float32]:
        """m of one expert for all its tensors, concatenated.

        terms: a factor per group, shape (groups,), and values of all tensors, concatenated.
        """
        groups = self._groups[expert]
        total = np.zeros(len(groups))
        for factors, values in terms:
            total += (factors[groups] if len(factors) > 1 else factors) * values
        return total.astype(np.float32)

    def _drawn(self, expert: int, mutation: Mutation) -> NDArray[np.float32]:
        """The draws of one mutation for all tensors, concatenated: U(0, 1), or U(-1, 1) if signed."""
        key = (mutation.seed, expert)
        draws = self._draws.get(key)
        if draws is None:
            parts = [uniform(mutation.seed, name, rank) for name, rank in self._ranks[expert].items()]
            draws = np.concatenate(parts).astype(np.float32) if parts else np.zeros(0, np.float32)
            self._draws[key] = draws
        return 2 * draws - 1 if mutation.signed else draws
