"""Archives by dominated novelty (Bahlous-Boldi et al., 2025), for more tasks than a grid of cells can cover.

An archive keeps a fixed number of models. A model's dominated novelty is its mean distance, in the other tasks' scores,
to the nearest models that are at least as good on the archive's own task. A full archive drops the model with the
least. The rules equal those of ribs' DNSArchive (a test compares them), with a rule for ties.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from cycleqd_merge.evolution.archive import AddResult, AddStatus, Archive, Bounds, Elite, Scores, Snapshot

NEIGHBOURS = 3
"""The number of nearest models that count, as in the paper."""
_DIGITS = 12  # distances that are equal up to rounding are equal, on every machine


def open_archive(task: int, bounds: Bounds, bins: Sequence[int], capacity: int | None) -> Archive:
    """An empty archive whose quality is `task`: a grid of cells, or one by dominated novelty with this capacity."""
    return Archive(task, bounds, bins) if capacity is None else NoveltyArchive(task, bounds, bins, capacity)


class NoveltyArchive(Archive):
    """At most `capacity` models of greatest dominated novelty.

    Distances are Euclidean, between scores that are scaled to [0, 1] by their bounds and limited to it, as in a grid.
    The bins only name and draw elites: several can have the same cell.
    """

    def __init__(self, task: int, bounds: Bounds, bins: Sequence[int], capacity: int) -> None:
        super().__init__(task, bounds, bins)
        self.capacity = capacity

    def add(self, number: int, scores: Scores) -> AddResult:
        """Offer a child; it enters unless the archive is full and the child is the one to drop.

        That is the model of least dominated novelty; of equals the one of least quality, and of these the latest. The
        gain of a child that does not enter is its quality minus that of the nearest model at least as good.

        Raises:
            ValueError: a score is not a finite number.
        """
        if not all(map(isfinite, scores)):
            raise ValueError(f"scores must be finite numbers, not {scores}")
        scores = tuple(map(float, scores))
        elites = [*self._elites.values(), Elite(number, self.task, self.cell_of(scores), scores)]
        self._elites[number] = elites[-1]
        if len(elites) <= self.capacity:
            return AddResult(AddStatus.NEW, scores[self.task])
        table = np.array([elite.scores for elite in elites])
        places, qualities = _places(table, self.task, self.bounds), table[:, self.task]
        novelty = dominated_novelty(places, qualities)
        dropped = min(range(len(elites)), key=lambda at: (novelty[at], qualities[at], -elites[at].number))
        del self._elites[elites[dropped].number]
        if elites[dropped].number != number:
            return AddResult(AddStatus.NEW, scores[self.task])
        better = np.flatnonzero(qualities[:-1] >= qualities[-1])
        nearest = better[np.argmin(_distances(places[better], places[-1:]))]
        return AddResult(AddStatus.NOT_ADDED, float(qualities[-1] - qualities[nearest]))

    def snapshot(self) -> Snapshot:
        """The archive as it is now."""
        return NoveltySnapshot(self.task, self.bounds, self.capacity, self.table()[1])

    @property
    def reachable(self) -> int:
        """The number of models that fit in."""
        return self.capacity


@dataclass(frozen=True, slots=True)
class NoveltySnapshot:
    """An archive by dominated novelty at one moment. scores: of its elites, shape (elites, tasks)."""

    task: int
    bounds: Bounds
    capacity: int
    scores: NDArray[np.float64]

    def could_accept(self, low: Scores, high: Scores) -> bool:
        """See `Snapshot.could_accept`: False only if the child would be dropped wherever its scores are in between."""
        if len(self.scores) < self.capacity:
            return True
        places, qualities = _places(self.scores, self.task, self.bounds), self.scores[:, self.task]
        least, most = (_places(np.array([scores]), self.task, self.bounds) for scores in (low, high))
        near = np.linalg.norm(np.maximum(np.maximum(least - places, places - most), 0.0), axis=1)
        far = np.linalg.norm(np.maximum(np.abs(least - places), np.abs(places - most)), axis=1)
        better = np.sort(far[qualities >= high[self.task]])[:NEIGHBOURS]
        if len(better) < NEIGHBOURS:  # a distant model that may be better could raise the mean without limit
            return True
        fitter = _to_fitter(places, qualities)
        with_child = np.where(qualities <= high[self.task], near, np.inf)[:, None]
        kept = np.minimum(_mean_of_nearest(fitter), _mean_of_nearest(np.hstack([fitter, with_child])))
        return bool(better.mean() + 10.0**-_DIGITS >= kept.min())


def dominated_novelty(places: NDArray[np.float64], qualities: NDArray[np.float64]) -> NDArray[np.float64]:
    """The dominated novelty of every model, shape (models,); infinite for one without a model at least as good.

    places: scores on the other tasks, shape (models, other tasks).
    """
    return _mean_of_nearest(_to_fitter(places, qualities)).round(_DIGITS)


def _to_fitter(places: NDArray[np.float64], qualities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distances from every model to those at least as good, shape (models, models); infinite for all others."""
    fitter = qualities[None] >= qualities[:, None]
    np.fill_diagonal(fitter, False)
    return np.where(fitter, _distances(places, places), np.inf)


def _mean_of_nearest(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of the least finite distances of every row, at most `NEIGHBOURS`; infinite for a row without any."""
    nearest = np.sort(distances, axis=1)[:, :NEIGHBOURS]
    finite = np.isfinite(nearest)
    count = finite.sum(axis=1)
    means = np.where(finite, nearest, 0.0).sum(axis=1) / np.maximum(count, 1)
    return np.where(count > 0, means, np.inf)


def _distances(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Euclidean distances, shape (models of `one`, models of `other`)."""
    return np.asarray(np.sqrt(np.square(one[:, None] - other[None]).sum(axis=2)))


def _places(scores: NDArray[np.float64], task: int, bounds: Bounds) -> NDArray[np.float64]:
    """Scores on the tasks other than `task`, scaled to [0, 1] by their bounds."""
    low, high = np.array(bounds).T
    return np.asarray(np.delete(((scores - low) / (high - low)).clip(0.0, 1.0), task, axis=1))
