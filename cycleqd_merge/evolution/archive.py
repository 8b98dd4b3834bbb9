"""Archives: one per task. Every task is the quality of its own archive and a behaviour characteristic of the others.
Plain MAP-Elites has one archive instead: its quality is the mean. `novelty` has archives without cells.

The rules equal those of ribs' GridArchive (a test compares them); ribs itself is not imported, as it imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from math import isfinite, prod
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Bounds = tuple[tuple[float, float], ...]
Scores = tuple[float, ...]
EPSILON = 1e-6
"""A score this little below a bin's edge still belongs to the bin above."""


class EmptyRange(ValueError):
    """A task's scores span no range, so they cannot be binned."""

    def __init__(self, task: int, worst: float, best: float) -> None:
        super().__init__(f"task {task}: scores from {worst} to {best} span no range")
        self.task, self.worst, self.best = task, worst, best


@dataclass(frozen=True, slots=True)
class Elite:
    """A model in an archive. `number` is its evaluation's number in the run, `cell` its bin for each other task."""

    number: int
    task: int
    cell: tuple[int, ...]
    scores: Scores


@dataclass(frozen=True, slots=True)
class Axis:
    """The bins of a task's scores; scores outside the bounds belong to the edge bins."""

    low: float
    high: float
    bins: int

    def bin(self, score: float) -> int:
        """The bin of a score, by the formula of ribs' GridArchive."""
        place = (self.bins * (score - self.low) + EPSILON) / (self.high - self.low)
        return int(min(max(place, 0), self.bins - 1))


class Snapshot(Protocol):
    """An archive at one moment, as racing needs it."""

    def could_accept(self, low: Scores, high: Scores) -> bool:
        """Whether a child could enter whose score on each task is between `low` and `high`."""
        ...


@dataclass(frozen=True, slots=True)
class ArchiveSnapshot:
    """An archive at one moment: the quality to beat in each occupied cell. `axes` are those of all tasks."""

    task: int
    axes: tuple[Axis, ...]
    qualities: Mapping[tuple[int, ...], float]

    def could_accept(self, low: Scores, high: Scores) -> bool:
        """See `Snapshot.could_accept`."""
        others = [task for task in range(len(self.axes)) if task != self.task]
        reach = [range(self.axes[task].bin(low[task]), self.axes[task].bin(high[task]) + 1) for task in others]
        barred = sum(
            quality >= high[self.task] and all(place in along for place, along in zip(cell, reach, strict=True))
            for cell, quality in self.qualities.items()
        )
        return barred < prod(map(len, reach))


class AddStatus(IntEnum):
    """Whether and how a child entered an archive. The values equal ribs' AddStatus, by which its emitters rank."""

    NOT_ADDED = 0
    IMPROVE_EXISTING = 1
    NEW = 2


@dataclass(frozen=True, slots=True)
class AddResult:
    """The result of offering a child to one archive.

    gain: its quality minus that of its cell's elite, if there was one; 0 or less if the child did not enter.
    """

    status: AddStatus
    gain: float


def bounds_from(scores: Sequence[Scores], low: float, high: float) -> Bounds:
    """Each task's bounds: `low` times the worst score to `high` times the best (paper: 0.85 and 1.15).

    Raises:
        EmptyRange: a task's scores span no range.
    """
    bounds = []
    for task, column in enumerate(zip(*scores, strict=True)):
        worst, best = min(column) * low, max(column) * high
        if not best > worst:
            raise EmptyRange(task, min(column), max(column))
        bounds.append((worst, best))
    return tuple(bounds)


class Archive:
    """The archive whose quality is `task`; the bins of the other tasks' scores are the cell."""

    def __init__(self, task: int, bounds: Bounds, bins: Sequence[int]) -> None:
        self.task = task
        self.others = tuple(other for other in range(len(bounds)) if other != task)
        self.bounds = bounds
        self._axes = tuple(Axis(low, high, int(count)) for (low, high), count in zip(bounds, bins, strict=True))
        self._elites: dict[Any, Elite] = {}  # by cell

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of bins for each other task."""
        return tuple(self._axes[other].bins for other in self.others)

    def cell_of(self, scores: Scores) -> tuple[int, ...]:
        """The cell that `scores` fall into; scores outside the bounds belong to the edge cells."""
        return tuple(self._axes[other].bin(scores[other]) for other in self.others)

    def bins_of(self, scores: NDArray[np.float64]) -> NDArray[np.int64]:
        """The bin of every score, the quality included; both of shape (elites, tasks)."""
        return np.array(
            [[axis.bin(score) for axis, score in zip(self._axes, row, strict=True)] for row in scores.tolist()]
        )

    def snapshot(self) -> Snapshot:
        """The qualities to beat as they are now."""
        qualities = {cell: elite.scores[self.task] for cell, elite in self._elites.items()}
        return ArchiveSnapshot(self.task, self._axes, qualities)

    def add(self, number: int, scores: Scores) -> AddResult:
        """Offer a child; it enters if its cell is empty or its quality is strictly better.

        Raises:
            ValueError: a score is not a number, or the quality of a child that would enter is infinite.
        """
        cell, quality = self.cell_of(scores), scores[self.task]
        elite = self._elites.get(cell)
        held = None if elite is None else elite.scores[self.task]
        if held is not None and quality <= held:
            return AddResult(AddStatus.NOT_ADDED, quality - held)
        if not isfinite(quality):
            raise ValueError(f"a quality must be a finite number, not {quality}")
        self._elites[cell] = Elite(number, self.task, cell, tuple(map(float, scores)))
        if held is None:
            return AddResult(AddStatus.NEW, quality)
        return AddResult(AddStatus.IMPROVE_EXISTING, quality - held)

    def elites(self) -> list[Elite]:
        """All elites, ordered by cell, then by number."""
        return sorted(self._elites.values(), key=lambda elite: (elite.cell, elite.number))

    def table(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Numbers, shape (elites,), and scores, shape (elites, tasks), in the order of their cells."""
        elites = self.elites()
        numbers = np.array([elite.number for elite in elites], dtype=np.int64)
        scores = np.array([elite.scores for elite in elites], dtype=np.float64)
        return numbers, scores.reshape(len(elites), len(self.bounds))

    def best(self) -> Elite | None:
        """The elite of the highest quality; the earliest evaluation of equals."""
        return max(self.elites(), key=lambda elite: (elite.scores[self.task], -elite.number), default=None)

    @property
    def qd_score(self) -> float:
        """Sum of the elites' qualities."""
        return float(sum(elite.scores[self.task] for elite in self._elites.values()))

    @property
    def reachable(self) -> int:
        """The number of cells that scores in [0, 1] can fall into."""
        lowest, highest = (self.cell_of((score,) * len(self.bounds)) for score in (0.0, 1.0))
        return prod(last - first + 1 for first, last in zip(lowest, highest, strict=True))

    @property
    def coverage(self) -> float:
        """Share of the reachable cells that hold an elite."""
        return len(self._elites) / self.reachable

    def heatmap(self, shown: Sequence[int] | None = None) -> NDArray[np.float64]:
        """The best quality by cell along the axes `shown`, over all others; NaN where every cell is empty.

        shown: numbers of axes, in the order of `others`; by default all. The result has one dimension for each.
        """
        shown = range(len(self.others)) if shown is None else shown
        grid = np.full([self.shape[axis] for axis in shown], np.nan)
        for elite in self._elites.values():
            place = tuple(elite.cell[axis] for axis in shown)
            grid[place] = np.fmax(grid[place], elite.scores[self.task])
        return grid
