"""The settings of a search: objectives, founders, floors and archives. Nothing here changes during a run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cycleqd_merge.evolution.genome import Genome, Matrix
from cycleqd_merge.strategies.racing import Racing


@dataclass(frozen=True)
class Objective:
    """A task that has an archive. `expert` is the index of the task's own expert; None if it has none."""

    name: str
    expert: int | None
    bins: int
    bounds: tuple[float, float] | None = None


@dataclass(frozen=True)
class Floor:
    """The least score that a child needs on a task to enter any archive; `column` is the task's place in the scores."""

    column: int
    least: float


@dataclass(frozen=True)
class SearchSpace:
    """The search space: `experts` x `groups` coefficients, scored on the `objectives`.

    Evaluations are numbered from 0. Generation 0 comes first: the experts, then the other `founders`, which are genomes
    from earlier runs, then the `fits`, which are learned once all of these are scored; `first` is the number of
    generation 1. A result's scores start with the objectives, in this order; tasks without an archive follow.

    factors: a task's bounds are these times the worst and the best score of the tasks' experts (paper: 0.85 and 1.15).
    levels: warm starts, static merges with this coefficient for every expert; a strategy may start with them.
    racing: None scores every child on all rows.
    capacity: of archives by dominated novelty; None for grids of cells.
    """

    objectives: tuple[Objective, ...]
    experts: int
    groups: int
    floors: tuple[Floor, ...] = ()
    founders: tuple[Genome, ...] = ()
    factors: tuple[float, float] = (0.85, 1.15)
    levels: tuple[float, ...] = ()
    racing: Racing | None = None
    fits: int = 0
    capacity: int | None = None

    @property
    def first(self) -> int:
        """The number of generation 1."""
        return self.experts + len(self.founders) + self.fits

    @property
    def inherited_fits(self) -> tuple[str, ...]:
        """Digests of the fits in `founders`."""
        return tuple(dict.fromkeys(digest for founder in self.founders for digest in founder.fits))

    @property
    def dimensions(self) -> int:
        """The size of the vectors that optimisers search; see `Coordinates`."""
        return len(self.inherited_fits) + self.fits + self.experts * self.groups

    def centre(self, level: float | None = None) -> Matrix:
        """Where an optimiser starts, shape (dimensions,).

        It is the run's first fit, or else the first one that was inherited; without fits, or with a `level`, the
        merge in which every expert has this coefficient, by default their plain mean.
        """
        inherited = len(self.inherited_fits)
        centre = np.zeros(self.dimensions)
        if level is None and inherited + self.fits:
            centre[inherited if self.fits else 0] = 1.0
        else:
            centre[inherited + self.fits :] = 1.0 / self.experts if level is None else level
        return centre
