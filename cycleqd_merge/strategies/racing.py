"""Early rejection: part of its rows can be enough to show that a child will enter no archive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist, fmean

from cycleqd_merge.evolution.archive import Snapshot
from cycleqd_merge.evolution.draws import generator
from cycleqd_merge.strategies.difficulty import FirstRows, first_count


@dataclass(frozen=True, slots=True)
class Partial:
    """The score of a task on part of its rows: the mean over `scored` of `rows` rows.

    variance: see `FirstRows`; 1 for random rows.
    """

    mean: float
    scored: int
    rows: int
    variance: float = 1.0

    def interval(self, confidence: float) -> tuple[float, float]:
        """A two-sided confidence interval of the mean over all rows.

        Wilson's interval with the correction for a finite population. Of all scores in [0, 1] with a given mean, zeros
        and ones spread most, so it holds for any scores; it is tighter than Hoeffding's and does not collapse at 0.
        """
        left = 1 - self.scored / self.rows
        if not left:
            return self.mean, self.mean
        z, n = NormalDist().inv_cdf((1 + confidence) / 2), self.scored / left / self.variance
        middle = (self.mean + z * z / (2 * n)) / (1 + z * z / n)
        reach = z / (1 + z * z / n) * sqrt(self.mean * (1 - self.mean) / n + z * z / (4 * n * n))
        known = self.mean * self.scored / self.rows  # each of the other rows can add 0 to 1
        return max(middle - reach, known), min(middle + reach, known + left)


@dataclass(frozen=True, slots=True)
class Racing:
    """How all children of a search race; see `Race`.

    by_difficulty: the first rows are chosen by difficulty. best: only children that are among this many best so far on
    the first rows, which are chosen once, are scored on the others; None for all that could enter an archive.
    """

    share: float
    confidence: float
    by_difficulty: bool = False
    best: int | None = None


@dataclass(frozen=True, slots=True)
class Race:
    """The test on the first `share` of each task's rows: can the child enter an archive, or is it among the best?

    archives: as they were when the child was proposed; from then on grids only get harder to enter. floors: pairs of a
    column of the scores and the least score in it. chosen: the first rows by task; empty for random ones. above: the
    mean of the objectives on the first rows that the child must exceed; None if it must be able to enter an archive.
    """

    share: float
    confidence: float
    archives: tuple[Snapshot, ...]
    floors: tuple[tuple[int, float], ...] = ()
    chosen: tuple[FirstRows, ...] = ()
    above: float | None = None

    def first(self, task: int, rows: int) -> FirstRows:
        """The rows of a task to score first, out of `rows`; random ones are the same for every child and every run."""
        if self.chosen:
            return self.chosen[task]
        return FirstRows(
            tuple(sorted(generator(0, "race").permutation(rows)[: first_count(self.share, rows)].tolist()))
        )

    def lost(self, partials: Sequence[Partial]) -> bool:
        """Whether a child with these partial scores, objectives first, is not scored on the other rows.

        Unless it must be among the best so far, it then enters no archive, at `confidence`. All intervals hold at the
        same time: the tasks share the error probability evenly (Bonferroni).
        """
        each = 1 - (1 - self.confidence) / len(partials)
        low, high = zip(*(partial.interval(each) for partial in partials), strict=True)
        if any(high[column] < least for column, least in self.floors):
            return True
        if self.above is not None:
            return fmean(partial.mean for partial in partials[: len(self.archives)]) <= self.above
        return not any(archive.could_accept(low, high) for archive in self.archives)
