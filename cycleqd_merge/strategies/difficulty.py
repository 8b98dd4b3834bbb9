"""The rows that a race begins with, chosen by difficulty: the mean score of each row over the models scored so far."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cycleqd_merge.evolution.draws import generator

LATEST, LEAST = 100, 8
"""Number of models, the latest, whose scores count, and the least number of models to judge by."""
_LEAST_VARIANCE = 0.5  # below it, intervals were too narrow: a new child differs from the models so far

Rows = NDArray[np.float32]
"""Scores by row, shape (models, rows)."""


@dataclass(frozen=True, slots=True)
class FirstRows:
    """Places of rows, ascending. variance: of the mean over them, relative to that over as many random rows."""

    places: tuple[int, ...]
    variance: float = 1.0


class Difficulties:
    """The row scores of the latest models that were scored on all rows of all tasks.

    models: an array of shape (rows,) per task.
    """

    def __init__(self) -> None:
        self.models: deque[list[Rows]] = deque(maxlen=LATEST)

    def learn(self, row_scores: Sequence[NDArray[np.float64]]) -> None:
        """Add a model: an array of shape (rows,) per task."""
        self.models.append([scores.astype(np.float32) for scores in row_scores])

    def first_rows(self, share: float) -> tuple[FirstRows, ...]:
        """The rows to score first, by task; empty as long as there are too few models to judge by."""
        if len(self.models) < LEAST:
            return ()
        return tuple(_chosen(np.stack(scores), share) for scores in zip(*self.models, strict=True))


def first_count(share: float, rows: int) -> int:
    """The number of rows that are scored first."""
    return min(max(round(share * rows), 1), rows)


def _chosen(scores: Rows, share: float) -> FirstRows:
    """The first rows, and their variance, measured on each half of the models with rows chosen by the other."""
    halves = scores[::2], scores[1::2]
    squares, expected = 0.0, 0.0
    for judges, judged in (halves, halves[::-1]):
        places = _spread(judges, share)
        means = judged.mean(axis=1, dtype=np.float64)
        squares += float(np.square(judged[:, places].mean(axis=1, dtype=np.float64) - means).sum())
        rows, count = scores.shape[1], len(places)
        # of 0 and 1, as in `Partial.interval`, with a row more so that equal scores do not count as certain
        expected += float((means * (1 - means) + 1 / rows).sum()) / count * (1 - count / rows)
    variance = min(max(squares / expected, _LEAST_VARIANCE), 1.0) if expected else 1.0
    return FirstRows(tuple(sorted(_spread(scores, share).tolist())), variance)


def _spread(scores: Rows, share: float) -> NDArray[np.intp]:
    """Places of rows at even distances in the order of difficulty, so that their mean varies less than a random one's.

    Rows of equal difficulty are in a fixed random order.
    """
    rows = scores.shape[1]
    count = first_count(share, rows)
    order = np.lexsort((generator(0, "race").permutation(rows), scores.sum(axis=0, dtype=np.float64)))
    found: NDArray[np.intp] = order[((np.arange(count) + 0.5) * rows / count).astype(np.intp)]
    return found
