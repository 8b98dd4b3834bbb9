"""What every strategy searches in: the founders it starts from, the candidates proposed, the archives they fill."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cycleqd_merge.evolution.archive import AddResult, Archive, Bounds, EmptyRange, Scores, bounds_from
from cycleqd_merge.evolution.candidate import Candidate
from cycleqd_merge.evolution.genome import Genome, Matrix, expert_genome, level_genome
from cycleqd_merge.strategies.protocol import Proposal, Result
from cycleqd_merge.strategies.racing import Race


@dataclass(frozen=True)
class Objective:
    """A task as the search sees it. `expert` is the index of its expert, None if it has none of its own."""

    name: str
    expert: int | None
    bins: int
    bounds: tuple[float, float] | None = None


@dataclass(frozen=True)
class Floor:
    """A score that children must hold to enter an archive: `column` is its place in a result's scores."""

    column: int
    least: float


@dataclass(frozen=True)
class Insertion:
    """What became of a child.

    scores: the objectives' scores; None if it failed or fell below a floor. entries: what it did in each archive; empty
    where it was offered to none.
    """

    scores: Scores | None
    entries: tuple[AddResult, ...] = ()

    @property
    def entered(self) -> bool:
        """Whether it entered any archive."""
        return any(entry.status for entry in self.entries)


class SearchSpace:
    """Founders, candidates and archives of one search.

    The first numbers are generation 0: the experts, then `seeds`, further genomes to start from. `first` is the number
    of generation 1. Result scores hold the objectives first, in their order, then those of tasks without an archive.

    factors: bounds of the archives, times the worst and times the best score of the tasks' experts (paper: 0.85, 1.15).
    race: share of the rows and confidence, see `Race`; None: every child is scored on all rows.
    levels: warm starts: static merges, so much of every expert each, that a strategy may begin its generations with.
    """

    def __init__(
        self,
        objectives: tuple[Objective, ...],
        experts: int,
        groups: int,
        floors: tuple[Floor, ...] = (),
        seeds: tuple[Genome, ...] = (),
        factors: tuple[float, float] = (0.85, 1.15),
        levels: tuple[float, ...] = (),
        race: tuple[float, float] | None = None,
    ) -> None:
        self.objectives, self.experts, self.groups = objectives, experts, groups
        self.floors, self.seeds, self.factors, self.levels = floors, seeds, factors, levels
        self._race = race
        self.first = experts + len(seeds)
        self.bounds: Bounds | None = None
        self.archives: list[Archive] = []
        """One per objective; empty until every founder was told."""
        self._candidates: list[Candidate] = []
        self._told: list[Scores | None] = []

    def founder(self, number: int) -> Proposal:
        """The proposal of a number below `first`: an expert, or a seed."""
        if number < self.experts:
            return self.propose(number, expert_genome(number, self.experts, self.groups), {"expert": number})
        return self.propose(number, self.seeds[number - self.experts], {"seed": number - self.experts})

    def opening(self, number: int) -> Proposal | None:
        """The proposal of a founder or a warm start; None for all numbers after them."""
        if number < self.first:
            return self.founder(number)
        if number < self.first + len(self.levels):
            level = self.levels[number - self.first]
            return self.propose(number, level_genome(level, self.experts, self.groups), {"level": level})
        return None

    def propose(self, number: int, candidate: Candidate, step: dict[str, Any]) -> Proposal:
        """A proposal, remembered under its number; `step` says how it came to be, as JSON values.

        Raises:
            ValueError: `number` is not the next one.
        """
        if number != len(self._candidates):
            raise ValueError(f"asked for number {number}, but {len(self._candidates)} is next")
        self._candidates.append(candidate)
        return Proposal(number, candidate, step, self._race_of(number))

    def _race_of(self, number: int) -> Race | None:
        if self._race is None or number < self.first or not self.archives:
            return None
        floors = tuple((floor.column, floor.least) for floor in self.floors)
        return Race(*self._race, tuple(archive.hurdle() for archive in self.archives), floors)

    def candidate(self, number: int) -> Candidate:
        """The candidate that was proposed under `number`."""
        return self._candidates[number]

    def genome(self, number: int) -> Genome:
        """The same, where it is a genome.

        Raises:
            ValueError: it is a mergekit configuration.
        """
        candidate = self._candidates[number]
        if not isinstance(candidate, Genome):
            raise ValueError(f"evaluation {number} is a mergekit configuration and has no genome")
        return candidate

    def told(self) -> list[tuple[Candidate, Scores | None]]:
        """The candidates whose results were told, with the scores of all tasks, in their order."""
        return list(zip(self._candidates, self._told, strict=False))

    def pending(self) -> list[Candidate]:
        """The candidates that were proposed and not told yet."""
        return self._candidates[len(self._told) :]

    def recorded(self, step: Mapping[str, Any]) -> Matrix | None:
        """The coefficients that a proposal's `step` states, shape (dimensions,); None where it states none that fit."""
        try:
            stated = np.array(step.get("coefficients"), dtype=np.float64)
        except (TypeError, ValueError):
            return None
        return stated.ravel() if stated.shape == (self.experts, self.groups) else None

    def holds(self, scores: Scores) -> bool:
        """Whether scores reach every floor."""
        return all(scores[floor.column] >= floor.least for floor in self.floors)

    def tell(self, result: Result) -> Insertion:
        """Offer a result to the archives; they open once every founder was told, and only then are founders offered.

        Raises:
            EmptyRange: a task's scores cannot be binned and no bounds were given.
            ValueError: no expert could be evaluated, or results come out of order.
        """
        if result.number != len(self._told):
            raise ValueError(f"told number {result.number}, but {len(self._told)} is next")
        self._told.append(result.scores)
        if len(self._told) == self.first:
            self._open()
        elif len(self._told) > self.first and result.scores is not None and self.holds(result.scores):
            return self._offer(result.number, result.scores[: len(self.objectives)])
        return Insertion(None)

    def _open(self) -> None:
        """Generation 0 is scored: fix the bounds and seed the archives."""
        founders = {number: scores for number, scores in enumerate(self._told) if scores is not None}
        if not any(number < self.experts for number in founders):
            raise ValueError("no expert could be evaluated")
        self.bounds = self._bounds(founders)
        bins = [objective.bins for objective in self.objectives]
        self.archives = [Archive(task, self.bounds, bins) for task in range(len(self.objectives))]
        for number, scores in founders.items():
            for archive in self.archives:  # floors do not apply: without its experts a search has no parents
                archive.add(number, scores[: len(self.objectives)])

    def _bounds(self, founders: Mapping[int, Scores]) -> Bounds:
        """Bounds given explicitly, else from the scores of the tasks' own experts."""
        named = {objective.expert for objective in self.objectives} - {None} or set(range(self.experts))
        scores = [own for number, own in founders.items() if number in named]
        if not scores and any(objective.bounds is None for objective in self.objectives):
            raise ValueError("no expert of the tasks could be evaluated, which leaves their archives without bounds")
        bounds = []
        for task, objective in enumerate(self.objectives):
            if objective.bounds is not None:
                bounds.append(objective.bounds)
                continue
            try:
                bounds.extend(bounds_from([(own[task],) for own in scores], *self.factors))
            except EmptyRange as error:
                raise EmptyRange(task, error.worst, error.best) from None
        return tuple(bounds)

    def _offer(self, number: int, scores: Scores) -> Insertion:
        return Insertion(scores, tuple(archive.add(number, scores) for archive in self.archives))
