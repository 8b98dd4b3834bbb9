"""The statistics of a comparison: intervals, gaps and hypervolume. Pure functions of their arguments.

`scipy.stats.bootstrap` agrees with `paired_bootstrap` but draws differently: numbers in docs/results.md would change.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cycleqd_merge.evolution.draws import generator
from cycleqd_merge.journal.measured import Estimate

RowScores = Mapping[str, ArrayLike]
"""By task: a score per row, shape (rows,)."""
_CHUNK = 2**20  # indices drawn at once: 8 MiB


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with the ends of its 95% interval."""

    estimate: float
    low: float
    high: float

    @property
    def holds_zero(self) -> bool:
        """Whether zero is inside: a difference may then be noise."""
        return self.low <= 0.0 <= self.high

    def within(self, lowest: float, highest: float) -> Interval:
        """The part of the interval in which the true value can be; covering it is as likely as before."""
        return Interval(self.estimate, max(self.low, lowest), min(self.high, highest))


def paired_bootstrap(own: RowScores, other: RowScores, seed: int = 0, draws: int = 10_000) -> Interval:
    """How much higher `own` scores than `other`: the difference of their means over tasks of the mean over rows.

    Both are scored on the same rows. The interval is over rows alone: it holds for these two models, and says nothing
    about other seeds of the strategies that found them. It is a percentile interval (Efron and Tibshirani 1993, chapter
    13): rows are resampled with replacement within each task, the same rows for both. The draws depend only on the seed
    and on the names and sizes of the tasks, so all models of a comparison get the same ones. A task with a single row
    adds nothing to the width. The seed is an argument only for tests: whether one model is better than another has one
    answer.

    Raises:
        ValueError: there is no task, or the two were not scored on the same tasks and numbers of rows.
    """
    if not own or own.keys() != other.keys():
        raise ValueError(f"cannot pair tasks {sorted(own)} with {sorted(other)}")
    estimate, resampled = 0.0, np.zeros(draws)
    for task in sorted(own):
        ours, theirs = np.asarray(own[task], np.float64), np.asarray(other[task], np.float64)
        if ours.ndim != 1 or not ours.size or ours.shape != theirs.shape:
            raise ValueError(f"task {task}: cannot pair rows of shape {ours.shape} with {theirs.shape}")
        estimate += float((ours - theirs).mean()) / len(own)
        resampled += _resampled_means(ours - theirs, generator(seed, "bootstrap", task), draws) / len(own)
    low, high = np.quantile(resampled, (0.025, 0.975))
    return Interval(estimate, float(low), float(high))


def _resampled_means(values: NDArray[np.float64], random: np.random.Generator, draws: int) -> NDArray[np.float64]:
    """Means of `draws` samples with replacement of shape (rows,), shape (draws,)."""
    most = max(1, _CHUNK // len(values))
    counts = (min(most, draws - start) for start in range(0, draws, most))
    return np.concatenate([values[random.integers(len(values), size=(n, len(values)))].mean(axis=1) for n in counts])


def seeds_interval(values: Sequence[float]) -> Interval | None:
    """The mean over seeds of scores in [0, 1] with its 95% interval by Student's t, cut to [0, 1].

    None for a single seed, which has no spread.
    """
    half = spread_over_seeds(values)
    if half is None:
        return None
    mean = float(np.mean(values))
    return Interval(mean, mean - half, mean + half).within(0.0, 1.0)


def rows_and_seeds_interval(rows: Interval, own: Sequence[float], other: Sequence[float]) -> Interval | None:
    """The 95% interval of a difference between two strategies over both rows and seeds, cut to [-1, 1].

    rows: the difference with its interval over rows. own, other: the mean score of each seed; empty for a model that
    depends on no seed, such as a static merge. None if neither depends on a seed, or one has a single seed: its spread
    is then unknown.

    The distances from the estimate to the interval's ends over rows and over seeds add up as squares (MOVER: Zou and
    Donner 2008, Statistics in Medicine 27). The part over seeds is Welch's (1947, Biometrika 34): seeds of different
    strategies are independent, also if they have the same number. A bootstrap that also draws seeds would be far too
    narrow: of two seeds, it sees half the variance. In simulations with 2 to 10 seeds, 94% to 99% of the intervals
    cover the true difference. They are never narrower than over rows alone, and too wide rather than too narrow, since
    the spread of seeds that were scored on few rows contains some of the noise of the rows, too.
    """
    half = spread_over_seeds(own, other)
    if half is None:
        return None
    low, high = (math.hypot(rows.estimate - end, half) for end in (rows.low, rows.high))
    return Interval(rows.estimate, rows.estimate - low, rows.estimate + high).within(-1.0, 1.0)


def spread_over_seeds(own: Sequence[float], other: Sequence[float] = ()) -> float | None:
    """Half the width of the 95% interval over seeds of a mean (Student), or of the difference of two means (Welch).

    own, other: a value per seed; empty for one that depends on no seed. None if neither depends on a seed, or one has
    a single value.
    """
    from scipy.special import stdtrit

    samples = [values for values in (own, other) if len(values)]
    if not samples or any(len(values) < 2 for values in samples):
        return None
    squares = [float(np.var(values, ddof=1)) / len(values) for values in samples]
    total = sum(squares)
    if not total:
        return 0.0
    parts = zip(squares, samples, strict=True)
    freedom = 1 / sum((square / total) ** 2 / (len(values) - 1) for square, values in parts)
    return float(stdtrit(freedom, 0.975)) * math.sqrt(total)


def chance_of_a_false_difference(comparisons: int) -> float:
    """The probability that at least one of several 95% intervals excludes zero by accident, if they are independent.

    Correlated intervals, such as those of one reference, do so less often (Sidak 1967, for normal differences).
    """
    return float(1 - 0.95**comparisons)


@dataclass(frozen=True, slots=True)
class Gap:
    """How much higher a model's search score is than its held-out score, with the standard error of this difference.

    error: None if the spread of either is not known.
    """

    difference: float
    error: float | None

    @property
    def large(self) -> bool:
        """Whether it is more than two standard errors: the model is overfitted to the search split."""
        return self.error is not None and self.difference > 2 * self.error


def search_gap(search: Estimate, heldout: Estimate) -> Gap:
    """The loss from the search split to the held-out split; their rows differ, so the errors are independent."""
    known = search.error is not None and heldout.error is not None
    error = math.hypot(search.error or 0.0, heldout.error or 0.0) if known else None
    return Gap(search.score - heldout.score, error)


def hypervolume(points: Sequence[Sequence[float]] | NDArray[np.float64], reference: float = 0.0) -> float:
    """The volume that points, shape (points, tasks), dominate above the reference in every task; higher is better.

    Exact. From five tasks on, the time grows steeply with the number of points on the front.
    """
    import moocore

    array = np.asarray(points, np.float64)
    return float(moocore.hypervolume(array, ref=reference, maximise=True)) if array.size else 0.0
