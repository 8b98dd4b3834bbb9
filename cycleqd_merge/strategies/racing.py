"""Cheap rejection: a part of its rows can say already that a child will enter no archive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

from cycleqd_merge.evolution.archive import ArchiveSnapshot
from cycleqd_merge.evolution.draws import generator


@dataclass(frozen=True, slots=True)
class Partial:
    """What a part of a task's rows says: the mean score of the `scored` ones among all its `rows`."""

    mean: float
    scored: int
    rows: int

    def interval(self, confidence: float) -> tuple[float, float]:
        """Where the mean over all rows lies, at this confidence on both sides together.

        Wilson's interval with the correction for a finite population: no scores in [0, 1] of a given mean spread more
        than zeros and ones, so it holds for any, is tighter than Hoeffding's, and does not collapse at a mean of 0.
        """
        left = 1 - self.scored / self.rows
        if not left:
            return self.mean, self.mean
        z, n = NormalDist().inv_cdf((1 + confidence) / 2), self.scored / left
        middle = (self.mean + z * z / (2 * n)) / (1 + z * z / n)
        reach = z / (1 + z * z / n) * sqrt(self.mean * (1 - self.mean) / n + z * z / (4 * n * n))
        known = self.mean * self.scored / self.rows  # the rows that are left can add 0 to 1 each
        return max(middle - reach, known), min(middle + reach, known + left)


@dataclass(frozen=True, slots=True)
class Race:
    """What a child must prove on the first `share` of each task's rows: that it can enter some archive.

    hurdles: the archives as they stood when the child was asked; they only ever get harder. floors: by column of the
    scores, the least that enters.
    """

    share: float
    confidence: float
    hurdles: tuple[ArchiveSnapshot, ...]
    floors: tuple[tuple[int, float], ...] = ()

    def first(self, rows: int) -> list[int]:
        """Places of the rows that are scored first, of so many, ascending; the same for every child and every run."""
        count = min(max(round(self.share * rows), 1), rows)
        return sorted(generator(0, "race").permutation(rows)[:count].tolist())

    def lost(self, partials: Sequence[Partial]) -> bool:
        """Whether a child with these parts of its scores, objectives first, enters no archive, at `confidence`.

        The tasks share the doubt evenly (Bonferroni), so all intervals hold at once.
        """
        each = 1 - (1 - self.confidence) / len(partials)
        low, high = zip(*(partial.interval(each) for partial in partials), strict=True)
        if any(high[column] < least for column, least in self.floors):
            return True
        return not any(hurdle.passable(low, high) for hurdle in self.hurdles)
