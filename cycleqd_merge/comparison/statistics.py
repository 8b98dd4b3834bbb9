"""The statistics of a comparison: intervals, gaps, hypervolume and duplicates. Pure functions of their arguments.

`scipy.stats.bootstrap` agrees with `paired_bootstrap` but draws differently: numbers in docs/results.md would change.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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


def paired_bootstrap(own: RowScores, other: RowScores, seed: int = 0, draws: int = 10_000) -> Interval:
    """How much higher `own` scores than `other`: the difference of their means over tasks of the mean over rows.

    Both are scored on the same rows. A percentile interval (Efron and Tibshirani 1993, chapter 13): rows are resampled
    with replacement within each task, the same rows for both. The draws depend only on the seed and on the names and
    sizes of the tasks, so all models of a comparison get the same ones. A task with a single row adds nothing to the
    width. The seed is an argument only for tests: whether one model is better than another has one answer.

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
    """The mean over seeds with its 95% interval by Student's t; None for a single seed, which has no spread."""
    if len(values) < 2:
        return None
    from scipy.special import stdtrit

    mean = float(np.mean(values))
    half = float(stdtrit(len(values) - 1, 0.975)) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


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


def duplicates(search: Iterable[Mapping[str, Any]], heldout: Iterable[Mapping[str, Any]]) -> int:
    """The number of held-out rows that equal, in all their columns, a row of the other splits."""
    seen = {_content(row) for row in search}
    return sum(_content(row) in seen for row in heldout)


def _content(row: Mapping[str, Any]) -> str:
    return json.dumps(dict(row), sort_keys=True, default=str)
