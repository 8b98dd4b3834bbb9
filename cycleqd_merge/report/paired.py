"""The difference of two models that were scored on the same rows, with its interval. Pure functions.

`scipy.stats.bootstrap` agrees with `paired_bootstrap` but draws differently: numbers in docs/results.md would change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cycleqd_merge.evolution.draws import generator

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
