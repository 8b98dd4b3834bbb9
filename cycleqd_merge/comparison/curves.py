"""The progress of a run over its evaluations, from their scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from cycleqd_merge.comparison.statistics import hypervolume
from cycleqd_merge.evolution.archive import Archive, Bounds, Scores
from cycleqd_merge.evolution.novelty import open_archive
from cycleqd_merge.journal.schema import Count

Total = Annotated[Count, Field(le=10**12)]
_Value = Annotated[float, Field(ge=0, le=1e12)]


@dataclass(frozen=True, slots=True)
class Curve:
    """Values by number of evaluations, all of one length; a curve starts at the first evaluation with scores.

    best_mean: highest mean over tasks so far. hypervolume: of all scores so far, above 0. qd_score: summed over the
    archives. coverage: share of cells, averaged over the archives.
    """

    evaluations: tuple[Total, ...]
    best_mean: tuple[_Value, ...]
    hypervolume: tuple[_Value, ...]
    qd_score: tuple[_Value, ...]
    coverage: tuple[_Value, ...]


@dataclass(frozen=True, slots=True)
class Band:
    """One value of several curves by number of evaluations: their mean, lowest and highest."""

    evaluations: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def band(curves: Sequence[Curve], value: str) -> Band | None:
    """The band of one value of `Curve`, up to the evaluation that all curves with points reach; None if none has any.

    Between its points a curve is constant.
    """
    started = [each for each in curves if each.evaluations]
    if not started:
        return None
    points = [np.asarray(each.evaluations) for each in started]
    first, last = max(each[0] for each in points), min(each[-1] for each in points)
    shared = np.unique(np.concatenate([[first], *points]))
    shared = shared[(shared >= first) & (shared <= last)]
    if not shared.size:  # one ended before another had its first score
        shared = np.array([last])
    places = [np.maximum(np.searchsorted(each, shared, side="right") - 1, 0) for each in points]
    values = np.stack([np.asarray(getattr(each, value))[at] for each, at in zip(started, places, strict=True)])
    lines = (values.mean(axis=0), values.min(axis=0), values.max(axis=0))
    return Band(tuple(shared.tolist()), *(tuple(line.tolist()) for line in lines))


def filled_archives(
    scores: Sequence[Scores | None], bounds: Bounds, bins: Sequence[int], capacity: int | None = None
) -> list[Archive]:
    """One archive per task, filled with every evaluation in order, whatever the strategy; see `curve`."""
    archives = _archives(bounds, bins, capacity)
    for number, evaluated in enumerate(scores):
        if evaluated is not None:
            _add(archives, number, evaluated[: len(bounds)])
    return archives


def curve(
    scores: Sequence[Scores | None],
    bounds: Bounds,
    bins: Sequence[int],
    points: int = 50,
    capacity: int | None = None,
) -> Curve:
    """The curve of a run at up to `points` numbers of evaluations: the first, the last, and even steps between them.

    scores: by evaluation, objectives first (kept tasks after them are ignored); None for an evaluation without scores.
    bounds, bins, capacity: of the archives (see `open_archive`), the same for all strategies of a comparison, whether
    they keep archives or not.
    """
    first = next((number for number, evaluated in enumerate(scores, start=1) if evaluated is not None), None)
    if first is None:
        return Curve((), (), (), (), ())
    marks = np.unique(np.linspace(first, len(scores), points).round().astype(int)).tolist()
    archives, known, best = _archives(bounds, bins, capacity), list[Scores](), 0.0
    values = []
    for number, evaluated in enumerate(scores, start=1):
        if evaluated is not None:
            known.append(evaluated[: len(bounds)])
            best = max(best, float(np.mean(known[-1])))
            _add(archives, number - 1, known[-1])
        if number in marks:
            qd_score = sum(archive.qd_score for archive in archives)
            coverage = float(np.mean([archive.coverage for archive in archives]))
            values.append((best, hypervolume(known), qd_score, coverage))
    best_mean, volumes, qd_scores, coverages = zip(*values, strict=True)
    return Curve(tuple(marks), best_mean, volumes, qd_scores, coverages)


def _archives(bounds: Bounds, bins: Sequence[int], capacity: int | None) -> list[Archive]:
    return [open_archive(task, bounds, bins, capacity) for task in range(len(bounds))]


def _add(archives: Sequence[Archive], number: int, scores: Scores) -> None:
    for archive in archives:
        archive.add(number, scores)
