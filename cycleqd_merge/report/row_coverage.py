"""Which search rows the models of a run solve, and which rows no elite solves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cycleqd_merge.run.state import Run

SOLVED = 0.5
"""The least score of a row that counts as solved."""


@dataclass(frozen=True)
class RowCoverage:
    """The search rows of a task, and how many of them models solve.

    experts, best, merged: solved by any expert, by the best-mean elite, by any elite that is not an expert. lost:
    places of rows, from 0, that an expert solves and no such elite. unsolved: those that no expert and no elite solves.
    """

    task: str
    rows: int
    experts: int
    best: int
    merged: int
    lost: tuple[int, ...]
    unsolved: tuple[int, ...]


def row_coverage(run: Run) -> list[RowCoverage]:
    """By task of the archives. Tasks are left out if the rows of an expert or of the best-mean elite are not recorded;
    of the other elites, those with rows count. Empty before there is an elite."""
    elites = run.elites()
    if not elites:
        return []
    experts = [number for number in range(len(run.experts)) if run.results[number]["scores"] is not None]
    best, merged = run.best_mean(), [number for number in elites if number >= len(run.experts)]
    outcomes = {number: run.outcomes(number) for number in {*experts, best, *merged}}
    found = []
    for task in run.objectives:
        solved = {number: own[task].scores >= SOLVED for number, own in outcomes.items() if task in own}
        if best in solved and experts and all(number in solved for number in experts):
            found.append(_coverage(task, solved, experts, best, merged))
    return found


def _coverage(
    task: str, solved: Mapping[int, NDArray[np.bool_]], experts: Sequence[int], best: int, merged: Sequence[int]
) -> RowCoverage:
    none = np.zeros(len(solved[best]), bool)
    by_expert, by_merged = (
        np.any([none, *(solved[number] for number in numbers if number in solved)], axis=0)
        for numbers in (experts, merged)
    )
    lost, unsolved = np.flatnonzero(by_expert & ~by_merged), np.flatnonzero(~by_expert & ~by_merged)
    return RowCoverage(
        task=task,
        rows=len(none),
        experts=int(by_expert.sum()),
        best=int(solved[best].sum()),
        merged=int(by_merged.sum()),
        lost=tuple(lost.tolist()),
        unsolved=tuple(unsolved.tolist()),
    )
