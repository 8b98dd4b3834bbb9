"""How much a genome strengthens each singular direction (by svd mutations and fits) and each channel (by fits)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from cachetools import LRUCache
from numpy.typing import NDArray

from cycleqd_merge.errors import ModelError
from cycleqd_merge.evolution.draws import uniform
from cycleqd_merge.evolution.genome import Genome, Mutation
from cycleqd_merge.merging.bases import ExpertBases
from cycleqd_merge.merging.fits import Fit, read_fit
from cycleqd_merge.merging.groups import Groups

DRAWS_KEPT = 2**30  # bytes; children share most of their mutations with their parents, so draws are reused

Strengths = dict[tuple[int, str], torch.Tensor]
"""Values by expert number and tensor name, one per direction or channel, shape (values,), float32."""

_Terms = Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]]
"""Factors per group, shape (groups,), each with values of all tensors of an expert, concatenated."""


class Directions:
    """The singular directions of the experts' task vectors: those of one expert in one array, tensor after tensor.

    With the draws of a mutation for all tensors of an expert in one array, a child with hundreds of mutations needs one
    product and one sum per mutation, instead of one per mutation and tensor.
    """

    def __init__(self, bases: Mapping[int, ExpertBases], groups: Groups) -> None:
        self._ranks = {expert: stored.ranks for expert, stored in bases.items()}
        self._groups = groups
        self._group_of_direction = {expert: self._repeated(ranks) for expert, ranks in self._ranks.items()}
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
            for fit, shares in _fits(genome):
                scales = fit.scales_along(expert, ranks)
                if scales is not None:
                    terms.append((shares, scales))
            if terms:
                total = _total(self._group_of_direction[expert], terms, device)
                found |= _by_tensor(expert, ranks, total)
        return found

    def channels(self, genome: Genome, device: torch.device) -> Strengths:
        """a and b of every tensor whose channels the genome's fits scale (see `split_channels`), on `device`.

        Raises:
            ModelError: a fit is not in the cache, or two fits scale different channels.
        """
        terms: dict[int, list[tuple[NDArray[np.float32], NDArray[np.float32]]]] = {}
        sizes: dict[int, Mapping[str, int]] = {}
        for fit, shares in _fits(genome):
            for expert in sorted(fit.scaled_experts("channel")):
                if sizes.setdefault(expert, fit.sizes[expert]) != fit.sizes[expert]:
                    raise ModelError("two fits of one genome scale different channels; they are of different models")
                terms.setdefault(expert, []).append((shares, fit.scales[expert]))
        found: Strengths = {}
        for expert, each in terms.items():
            found |= _by_tensor(expert, sizes[expert], _total(self._repeated(sizes[expert]), each, device))
        return found

    def _repeated(self, sizes: Mapping[str, int]) -> NDArray[np.int64]:
        """The group of each of an expert's values. sizes: their number by tensor."""
        return np.repeat(np.array([self._groups.of(name) for name in sizes], np.int64), list(sizes.values()))

    def _drawn(self, expert: int, mutation: Mutation) -> NDArray[np.float32]:
        """The draws of one mutation for all tensors, concatenated: U(0, 1), or U(-1, 1) if signed."""
        key = (mutation.seed, expert)
        draws = self._draws.get(key)
        if draws is None:
            parts = [uniform(mutation.seed, name, rank) for name, rank in self._ranks[expert].items()]
            draws = np.concatenate(parts).astype(np.float32) if parts else np.zeros(0, np.float32)
            self._draws[key] = draws
        return 2 * draws - 1 if mutation.signed else draws


def _fits(genome: Genome) -> Iterator[tuple[Fit, NDArray[np.float32]]]:
    """The genome's fits with their shares per group."""
    for digest, shares in zip(genome.fits, genome.fit_shares, strict=True):
        yield read_fit(digest), shares.astype(np.float32)


def _total(groups: NDArray[np.int64], terms: _Terms, device: torch.device) -> torch.Tensor:
    """The sum of the terms, accumulated in float64. groups: of each value."""
    total = np.zeros(len(groups))
    for factors, values in terms:
        total += (factors[groups] if len(factors) > 1 else factors) * values
    return torch.from_numpy(total.astype(np.float32)).to(device)


def _by_tensor(expert: int, sizes: Mapping[str, int], total: torch.Tensor) -> Strengths:
    return {(expert, name): part for name, part in zip(sizes, total.split(list(sizes.values())), strict=True)}
