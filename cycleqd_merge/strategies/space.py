"""The settings of a search: objectives, founders, floors and archives. Nothing here changes during a run."""

from __future__ import annotations

from dataclasses import dataclass

from cycleqd_merge.evolution.genome import Genome


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
    from earlier runs; `first` is the number of generation 1. A result's scores start with the objectives, in this
    order; tasks without an archive follow.

    factors: a task's bounds are these times the worst and the best score of the tasks' experts (paper: 0.85 and 1.15).
    levels: warm starts, static merges with this coefficient for every expert; a strategy may start with them.
    race: share of the rows and confidence, see `Race`; None scores every child on all rows.
    capacity: of archives by dominated novelty; None for grids of cells.
    """

    objectives: tuple[Objective, ...]
    experts: int
    groups: int
    floors: tuple[Floor, ...] = ()
    founders: tuple[Genome, ...] = ()
    factors: tuple[float, float] = (0.85, 1.15)
    levels: tuple[float, ...] = ()
    race: tuple[float, float] | None = None
    capacity: int | None = None

    @property
    def first(self) -> int:
        """The number of generation 1."""
        return self.experts + len(self.founders)
