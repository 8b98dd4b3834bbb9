"""Archives: one per task, on ribs' GridArchive. Every task is the quality of its own archive and a behaviour
characteristic of all the others. Plain MAP-Elites has one archive instead: its quality is the mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray
from ribs.archives import AddStatus, GridArchive

Bounds = tuple[tuple[float, float], ...]
Scores = tuple[float, ...]
EPSILON = 1e-6
"""So far below a bin's edge a score still belongs above it."""


class EmptyRange(ValueError):
    """A task's range of scores has no width, so its scores cannot be binned."""

    def __init__(self, task: int, worst: float, best: float) -> None:
        super().__init__(f"task {task}: scores from {worst} to {best} span no range")
        self.task, self.worst, self.best = task, worst, best


@dataclass(frozen=True, slots=True)
class Elite:
    """The best child of one cell. `number` is the evaluation's number in the run, `cell` its bin per other task."""

    number: int
    task: int
    cell: tuple[int, ...]
    scores: Scores


@dataclass(frozen=True, slots=True)
class Axis:
    """A task's scores, binned; what lies outside the bounds belongs to the edge bins."""

    low: float
    high: float
    bins: int

    def bin(self, score: float) -> int:
        """As ribs' GridArchive does, without the cost of arrays."""
        place = (self.bins * (score - self.low) + EPSILON) / (self.high - self.low)
        return int(min(max(place, 0), self.bins - 1))


@dataclass(frozen=True, slots=True)
class ArchiveSnapshot:
    """An archive as a child finds it: the quality to beat in each cell that is held; `axes` are those of all tasks."""

    task: int
    axes: tuple[Axis, ...]
    qualities: Mapping[tuple[int, ...], float]

    def passable(self, low: Scores, high: Scores) -> bool:
        """Whether any child could enter whose scores lie between `low` and `high`, task by task."""
        others = [task for task in range(len(self.axes)) if task != self.task]
        reach = [range(self.axes[task].bin(low[task]), self.axes[task].bin(high[task]) + 1) for task in others]
        barred = sum(
            quality >= high[self.task] and all(place in along for place, along in zip(cell, reach, strict=True))
            for cell, quality in self.qualities.items()
        )
        return barred < prod(map(len, reach))


@dataclass(frozen=True, slots=True)
class AddResult:
    """What became of a child in one archive.

    gain: its quality, less that of the elite that stood in its cell if there was one; 0 or less if it did not enter.
    """

    status: AddStatus
    gain: float


def bounds_from(scores: Sequence[Scores], low: float, high: float) -> Bounds:
    """Per task, `low` times the worst to `high` times the best of `scores` (paper: 0.85 and 1.15).

    Raises:
        EmptyRange: a task on which worst and best leave no width.
    """
    bounds = []
    for task, column in enumerate(zip(*scores, strict=True)):
        worst, best = min(column) * low, max(column) * high
        if not best > worst:
            raise EmptyRange(task, min(column), max(column))
        bounds.append((worst, best))
    return tuple(bounds)


class Archive:
    """The archive whose quality is `task`; the other tasks' scores, binned, tell the cell."""

    def __init__(self, task: int, bounds: Bounds, bins: Sequence[int]) -> None:
        self.task = task
        self.others = tuple(other for other in range(len(bounds)) if other != task)
        self.bounds = bounds
        self._grid = GridArchive(
            solution_dim=len(bounds),
            dims=[bins[other] for other in self.others],
            ranges=[bounds[other] for other in self.others],
            extra_fields={"number": ((), np.int64)},
            epsilon=EPSILON,
        )
        self._axes = tuple(Axis(low, high, int(count)) for (low, high), count in zip(bounds, bins, strict=True))
        self._qualities: dict[tuple[int, ...], float] = {}

    @property
    def shape(self) -> tuple[int, ...]:
        """Bins per other task."""
        return tuple(self._axes[other].bins for other in self.others)

    def cell_of(self, scores: Scores) -> tuple[int, ...]:
        """The cell that `scores` fall into; values outside the bounds belong to the edge cell."""
        return tuple(self._axes[other].bin(scores[other]) for other in self.others)

    def bins_of(self, scores: NDArray[np.float64]) -> NDArray[np.int64]:
        """The bin of every score, of the quality too; both of shape (elites, tasks)."""
        return np.array(
            [[axis.bin(score) for axis, score in zip(self._axes, row, strict=True)] for row in scores.tolist()]
        )

    def hurdle(self) -> ArchiveSnapshot:
        """What a child must beat to enter, as the archive stands now."""
        return ArchiveSnapshot(self.task, self._axes, dict(self._qualities))

    def add(self, number: int, scores: Scores) -> AddResult:
        """Offer a child; it enters if its cell is empty or its quality is strictly better."""
        cell, quality = self.cell_of(scores), scores[self.task]
        held = self._qualities.get(cell)
        if held is not None and quality <= held:  # the common case, decided without the cost of an insertion
            return AddResult(AddStatus.NOT_ADDED, quality - held)
        measures = [min(max(scores[other], self.bounds[other][0]), self.bounds[other][1]) for other in self.others]
        self._grid.add_single(list(scores), quality, measures, number=number)
        self._qualities[cell] = quality
        return (
            AddResult(AddStatus.NEW, quality) if held is None else AddResult(AddStatus.IMPROVE_EXISTING, quality - held)
        )

    def elites(self) -> list[Elite]:
        """All elites, ordered by cell."""
        data = self._grid.data(["solution", "number", "index"])
        cells = self._grid.int_to_grid_index(data["index"])
        rows = zip(data["solution"].tolist(), data["number"].tolist(), cells.tolist(), strict=True)
        return sorted(
            (Elite(number, self.task, tuple(cell), tuple(scores)) for scores, number, cell in rows),
            key=lambda elite: elite.cell,
        )

    def table(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Numbers, shape (elites,), and scores, shape (elites, tasks), in the order of their cells."""
        data = self._grid.data(["solution", "number", "index"])
        order = np.argsort(data["index"])
        return data["number"][order], data["solution"][order]

    def best(self) -> Elite | None:
        """The elite of the highest quality; of equals the earliest evaluation."""
        return max(self.elites(), key=lambda elite: (elite.scores[self.task], -elite.number), default=None)

    @property
    def qd_score(self) -> float:
        """Sum of the elites' qualities."""
        return float(sum(self._qualities.values()))

    @property
    def reachable(self) -> int:
        """Cells that scores in [0, 1] can fall into."""
        lowest, highest = (self.cell_of((score,) * len(self.bounds)) for score in (0.0, 1.0))
        return prod(last - first + 1 for first, last in zip(lowest, highest, strict=True))

    @property
    def coverage(self) -> float:
        """Share of the reachable cells that hold an elite."""
        return len(self._qualities) / self.reachable

    def heatmap(self) -> NDArray[np.float64]:
        """Qualities by cell, shape `shape`; NaN where no elite stands."""
        grid = np.full(self.shape, np.nan)
        for elite in self.elites():
            grid[elite.cell] = elite.scores[self.task]
        return grid
