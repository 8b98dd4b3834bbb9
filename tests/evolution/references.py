"""Slow, plain reference implementations for the tests, and a synthetic task. No numpy where arithmetic is tested."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

from hypothesis import strategies as st

from cycleqd_merge.evolution.archive import Bounds, Scores
from cycleqd_merge.evolution.genome import Genome, Mutation

Flat = dict[tuple[object, int], float]
"""A genome as one number per (expert, mutation or digest of a fit; group)."""


def flat(genome: Genome) -> Flat:
    """A genome's coefficients by (expert number, group), and shares by (mutation or digest of a fit, group)."""
    coefficients: Flat = {
        (expert, group): value
        for expert, row in enumerate(genome.coefficients.tolist())
        for group, value in enumerate(row)
    }
    shares = {
        (term, group): value
        for terms, rows in ((genome.mutations, genome.shares), (genome.fits, genome.fit_shares))
        for term, row in zip(terms, rows.tolist(), strict=True)
        for group, value in enumerate(row)
    }
    return {**coefficients, **shares}


def weighted_sum(genomes: Sequence[Flat], weights: Sequence[Sequence[float]]) -> Flat:
    """sum_n weights[n][group] * genomes[n], key by key; nothing is dropped."""
    total: Flat = {}
    for genome, by_group in zip(genomes, weights, strict=True):
        for (part, group), value in genome.items():
            total[part, group] = total.get((part, group), 0.0) + by_group[group] * value
    return total


def without_negligible(genome: Flat, least: float) -> Flat:
    """Drop the mutations and fits whose share is below `least` in every group."""
    strongest: dict[object, float] = {}
    for (part, _), value in genome.items():
        strongest[part] = max(strongest.get(part, 0.0), abs(value))
    return {
        (part, group): value
        for (part, group), value in genome.items()
        if isinstance(part, int) or strongest[part] >= least
    }


class SlowArchive:
    """An archive as a dict from cell to (number, scores), with exact arithmetic."""

    def __init__(self, task: int, bounds: Bounds, bins: Sequence[int]) -> None:
        self.task, self.bounds, self.bins = task, bounds, bins
        self.cells: dict[tuple[int, ...], tuple[int, Scores]] = {}

    def cell_of(self, scores: Scores) -> tuple[int, ...]:
        """The bin of every other task; a value on an edge, or a millionth of a bin below, belongs to the bin above."""
        cell = []
        for other, (low, high) in enumerate(self.bounds):
            if other != self.task:
                position = Fraction(scores[other]) - Fraction(low)
                width = Fraction(high) - Fraction(low)
                place = math.floor((self.bins[other] * position + Fraction(1, 10**6)) / width)
                cell.append(min(max(place, 0), self.bins[other] - 1))
        return tuple(cell)

    def add(self, number: int, scores: Scores) -> bool:
        """Offer a child; only a strictly better one replaces an elite."""
        cell = self.cell_of(scores)
        if cell in self.cells and not scores[self.task] > self.cells[cell][1][self.task]:
            return False
        self.cells[cell] = (number, scores)
        return True


def snapshot(archives: Sequence[object]) -> list[list[tuple[tuple[int, ...], int, Scores]]]:
    """The contents of archives as plain values: (cell, number, scores) in order of cell."""
    return [
        [(elite.cell, elite.number, elite.scores) for elite in archive.elites()]  # type: ignore[attr-defined]
        for archive in archives
    ]


def slow_snapshot(archives: Sequence[SlowArchive]) -> list[list[tuple[tuple[int, ...], int, Scores]]]:
    """The same for slow archives."""
    return [[(cell, *archive.cells[cell]) for cell in sorted(archive.cells)] for archive in archives]


def synthetic_scores(genome: Genome, tasks: int, steps: int = 200) -> Scores:
    """Scores that depend on the genome alone: task k prefers expert k, and every mutation shifts its score a little.

    They are multiples of 1 / steps, as for a task of that many samples, so ties and shared cells are common.
    """
    scores = []
    for task in range(tasks):
        held = math.fsum(genome.coefficients[task % len(genome.coefficients)]) / genome.coefficients.shape[1]
        luck = math.fsum(
            math.sin(mutation.seed % 1000 * (task + 1)) * share
            for mutation, row in zip(genome.mutations, genome.shares.tolist(), strict=True)
            for share in row
        )
        scores.append(round(steps * min(1.0, 0.1 + 0.8 * math.exp(-((held - 1.0) ** 2)) + 0.02 * luck)) / steps)
    return tuple(max(0.0, score) for score in scores)


MUTATIONS = [
    *(Mutation("svd", seed % 2, seed, 0.3, signed=seed % 3 == 0) for seed in range(1, 8)),
    *(Mutation("gaussian", None, seed, 0.01) for seed in range(2**53 - 4, 2**53)),
]
FITS = [f"{number:064x}" for number in range(4)]


@st.composite
def genomes(draw: st.DrawFn, experts: int = 2, groups: int = 2, least_share: float = 0.0) -> Genome:
    """Genomes over a small pool of mutations and fits, so that genomes share some."""
    value = st.floats(-2.0, 2.0).map(lambda number: number + 0.0)
    share = st.floats(-1.0, 1.0).filter(lambda number: abs(number) >= least_share)
    row = st.lists(value, min_size=groups, max_size=groups)
    chosen = sorted(draw(st.sets(st.sampled_from(MUTATIONS), max_size=6)), key=lambda mutation: mutation.seed)
    fits = sorted(draw(st.sets(st.sampled_from(FITS), max_size=3)))
    record = {
        "format": 2 if fits else 1,
        "coefficients": draw(st.lists(row, min_size=experts, max_size=experts)),
        "mutations": [
            {**mutation.to_json(), "share": draw(st.lists(share, min_size=groups, max_size=groups))}
            for mutation in chosen
        ],
    }
    if fits:
        shares = draw(
            st.lists(st.lists(share, min_size=groups, max_size=groups), min_size=len(fits), max_size=len(fits))
        )
        record["fits"] = [{"digest": fit, "share": row} for fit, row in zip(fits, shares, strict=True)]
    return Genome.from_json(record)


def close(found: Mapping[tuple[object, int], float], wanted: Flat, tolerance: float) -> bool:
    """Whether two flat genomes agree up to `tolerance`; an absent mutation counts as share 0."""
    return all(
        math.isclose(found.get(key, 0.0), wanted.get(key, 0.0), rel_tol=1e-9, abs_tol=tolerance)
        for key in {*found, *wanted}
    )
