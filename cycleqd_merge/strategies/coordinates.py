"""The vectors that optimisers search, and the genomes that they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cycleqd_merge.evolution.candidate import Candidate
from cycleqd_merge.evolution.genome import NEGLIGIBLE, Genome, Matrix, coefficient_genome

ALIKE = 0.05
"""Shares of one fit that differ by less between groups count as equal."""


@dataclass(frozen=True)
class Coordinates:
    """Vectors of shape (size,): the share of each fit, the same in all groups, then the experts' coefficients.

    fits: digests. The coefficients have the shape (experts, groups).
    """

    experts: int
    groups: int
    fits: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """The number of dimensions."""
        return len(self.fits) + self.experts * self.groups

    def genome(self, point: Matrix) -> Genome:
        """The genome at a point; negligible shares are left out."""
        shares, coefficients = self._parts(point)
        totals: dict[str, float] = {}
        for digest, share in zip(self.fits, shares.tolist(), strict=True):
            totals[digest] = totals.get(digest, 0.0) + share
        kept = sorted(digest for digest, share in totals.items() if abs(share) >= NEGLIGIBLE)
        table = np.array([[totals[digest]] * self.groups for digest in kept]).reshape(len(kept), self.groups)
        return replace(coefficient_genome(coefficients), fits=tuple(kept), fit_shares=table)

    def point(self, candidate: Candidate) -> Matrix | None:
        """The point of a candidate; None if it has mutations, other fits, or a share that differs between groups."""
        if not isinstance(candidate, Genome) or candidate.mutations or not set(candidate.fits) <= set(self.fits):
            return None
        apart = np.ptp(candidate.fit_shares, axis=1) if candidate.fits else np.zeros(0)
        return self.nearest(candidate) if (apart < ALIKE).all() else None

    def nearest(self, genome: Genome) -> Matrix:
        """The point of a genome without its mutations and other fits, with each fit's mean share."""
        means = dict(zip(genome.fits, genome.fit_shares.mean(axis=1).tolist(), strict=True)) if genome.fits else {}
        shares = [means.pop(digest, 0.0) for digest in self.fits]  # a fit that is named twice counts once
        return np.concatenate([shares, genome.coefficients.ravel()])

    def step(self, point: Matrix) -> dict[str, Any]:
        """The entries of a journal's step from which `recorded` restores the point."""
        shares, coefficients = self._parts(point + 0.0)
        return {"coefficients": coefficients.tolist(), **({"shares": shares.tolist()} if self.fits else {})}

    def recorded(self, step: Mapping[str, Any]) -> Matrix | None:
        """The point in a recorded step; None if there is none of the right shape."""
        try:
            coefficients = np.array(step.get("coefficients"), dtype=np.float64)
            shares = np.array(step.get("shares", []), dtype=np.float64)
        except (TypeError, ValueError):
            return None
        if coefficients.shape != (self.experts, self.groups) or shares.shape != (len(self.fits),):
            return None
        return np.concatenate([shares, coefficients.ravel()])

    def _parts(self, point: Matrix) -> tuple[Matrix, Matrix]:
        shares, coefficients = np.split(point, [len(self.fits)])
        return shares, coefficients.reshape(self.experts, self.groups)
