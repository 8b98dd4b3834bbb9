"""The state of a search: candidates proposed, results received, and the archives that these fill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import nlargest
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cycleqd_merge.evolution.archive import AddResult, Archive, Bounds, EmptyRange, Scores, bounds_from
from cycleqd_merge.evolution.candidate import Candidate
from cycleqd_merge.evolution.genome import Genome, Matrix, expert_genome, fit_genome, level_genome
from cycleqd_merge.evolution.novelty import open_archive
from cycleqd_merge.strategies.coordinates import Coordinates
from cycleqd_merge.strategies.difficulty import Difficulties, FirstRows
from cycleqd_merge.strategies.protocol import Proposal, Result
from cycleqd_merge.strategies.racing import Race
from cycleqd_merge.strategies.space import Floor, Objective, SearchSpace


@dataclass(frozen=True)
class Insertion:
    """The results of offering a child to the archives.

    scores: those of the objectives; None if the evaluation failed, or a score is below a floor. by_archive: one per
    archive, in their order; empty if the child was not offered to them. estimated: the scores on part of the rows, of a
    child that racing rejected, unless one is below a floor, and of all children if racing keeps only the best.
    """

    scores: Scores | None
    by_archive: tuple[AddResult, ...] = ()
    estimated: Scores | None = None

    @property
    def entered(self) -> bool:
        """Whether the child entered any archive."""
        return any(added.status for added in self.by_archive)

    @property
    def ranked(self) -> Scores | None:
        """The scores that children of a population are compared by: on the same rows as far as possible; None ranks
        below all."""
        return self.scores if self.estimated is None else self.estimated


class SearchState:
    """Candidates, results and archives of one search. Every strategy is given one and keeps it up to date.

    bounds: of every objective's scores; None until the archives open. archives: one per objective; empty until every
    founder's result was received. fits: digests of the run's own fits that are learned already, by number.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.bounds: Bounds | None = None
        self.archives: list[Archive] = []
        self.fits: dict[int, str] = {}
        self._candidates: list[Candidate] = []
        self._results: list[Result] = []
        self._difficulties = Difficulties()
        self._first_rows: tuple[FirstRows, ...] = ()  # of all children, if racing keeps only the best; see `_judge`
        self._means: list[float] = []

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """See `SearchSpace`."""
        return self.space.objectives

    @property
    def experts(self) -> int:
        """See `SearchSpace`."""
        return self.space.experts

    @property
    def groups(self) -> int:
        """See `SearchSpace`."""
        return self.space.groups

    @property
    def floors(self) -> tuple[Floor, ...]:
        """See `SearchSpace`."""
        return self.space.floors

    @property
    def levels(self) -> tuple[float, ...]:
        """See `SearchSpace`."""
        return self.space.levels

    @property
    def first(self) -> int:
        """See `SearchSpace`."""
        return self.space.first

    @property
    def coordinates(self) -> Coordinates:
        """The vectors that optimisers search, once all fits are learned."""
        own = (self.fits[number] for number in sorted(self.fits))
        return Coordinates(self.space.experts, self.space.groups, (*self.space.inherited_fits, *own))

    def founder(self, number: int) -> Proposal | None:
        """The proposal of a number below `first`: an expert, another founder, or a fit.

        None if the fit is not learned yet; it is asked for again once it is.
        """
        experts, groups, inherited = self.space.experts, self.space.groups, len(self.space.founders)
        if number < experts:
            return self.propose(number, expert_genome(number, experts, groups), {"expert": number})
        if number < experts + inherited:
            return self.propose(number, self.space.founders[number - experts], {"seed": number - experts})
        fit = number - experts - inherited
        if fit not in self.fits:
            return None
        return self.propose(number, fit_genome(self.fits[fit], experts, groups), {"fit": fit})

    def opening(self, number: int) -> Proposal | None:
        """The proposal of a founder or a warm start; None for all later numbers, and for a fit that is not learned yet
        (then the archives are not open either)."""
        if number < self.space.first:
            return self.founder(number)
        if number < self.space.first + len(self.space.levels):
            level = self.space.levels[number - self.space.first]
            return self.propose(number, level_genome(level, self.space.experts, self.space.groups), {"level": level})
        return None

    def propose(self, number: int, candidate: Candidate, step: dict[str, Any]) -> Proposal:
        """A proposal, recorded under its number; `step` says how the candidate was made, as JSON values.

        Raises:
            ValueError: `number` is not the next one.
        """
        if number != len(self._candidates):
            raise ValueError(f"asked for number {number}, but {len(self._candidates)} is next")
        self._candidates.append(candidate)
        return Proposal(number, candidate, step, self._race_of(number))

    def _race_of(self, number: int) -> Race | None:
        racing = self.space.racing
        if racing is None or number < self.space.first or not self.archives:
            return None
        if racing.best is not None and not self._first_rows:
            return None
        floors = tuple((floor.column, floor.least) for floor in self.space.floors)
        archives = tuple(archive.snapshot() for archive in self.archives)
        if racing.best is not None:
            above = nlargest(racing.best, self._means)[-1] if len(self._means) >= racing.best else 0.0
            return Race(racing.share, racing.confidence, archives, floors, self._first_rows, above)
        chosen = self._difficulties.first_rows(racing.share) if racing.by_difficulty else ()
        return Race(racing.share, racing.confidence, archives, floors, chosen)

    def candidate(self, number: int) -> Candidate:
        """The candidate that was proposed under `number`."""
        return self._candidates[number]

    def genome(self, number: int) -> Genome:
        """The candidate that was proposed under `number`, which must be a genome.

        Raises:
            ValueError: it is a mergekit configuration.
        """
        candidate = self._candidates[number]
        if not isinstance(candidate, Genome):
            raise ValueError(f"evaluation {number} is a mergekit configuration and has no genome")
        return candidate

    def results(self) -> list[tuple[Candidate, Scores | None]]:
        """The candidates whose results were received, each with the scores of all tasks, in order of number."""
        return list(zip(self._candidates, (result.scores for result in self._results), strict=False))

    def variances(self, number: int) -> tuple[float, ...]:
        """See `Result`: of a result that was received."""
        return self._results[number].variances

    def estimated(self, number: int) -> Scores | None:
        """See `Result`: of a result that was received."""
        return self._results[number].estimated

    def pending(self) -> list[Candidate]:
        """The candidates without a result yet, in order of number."""
        return self._candidates[len(self._results) :]

    def recorded(self, step: Mapping[str, Any]) -> Matrix | None:
        """The point given in a recorded step, shape (dimensions,); None if there is none of the right shape."""
        return self.coordinates.recorded(step)

    def meets_floors(self, scores: Scores) -> bool:
        """Whether the scores reach every floor."""
        return all(scores[floor.column] >= floor.least for floor in self.space.floors)

    def tell(self, result: Result) -> Insertion:
        """Receive a result and offer the child to the archives.

        The archives open with the last founder's result, and receive all founders at once.

        Raises:
            EmptyRange: a task's scores span no range, and the recipe gives no bounds.
            ValueError: no expert could be evaluated, or results come out of order.
        """
        if result.number != len(self._results):
            raise ValueError(f"received result {result.number}, but {len(self._results)} is next")
        self._results.append(replace(result, row_scores=()))  # of thousands of results they would fill the memory
        estimated = result.estimated if result.scores is None else self._learn_rows(result.row_scores)
        if len(self._results) == self.space.first:
            self._open_archives()
        elif len(self._results) > self.space.first and result.scores is not None and self.meets_floors(result.scores):
            scores = result.scores[: len(self.space.objectives)]
            added = tuple(archive.add(result.number, scores) for archive in self.archives)
            return Insertion(scores, added, estimated and estimated[: len(scores)])
        elif result.scores is None and estimated is not None and self.meets_floors(estimated):
            return Insertion(None, estimated=estimated[: len(self.space.objectives)])
        return Insertion(None)

    def _learn_rows(self, row_scores: Sequence[NDArray[np.float64]]) -> Scores | None:
        """Learn from the scores of all rows of a model how difficult these are.

        Returns its scores on the first rows alone, if racing keeps only the best child and has chosen these rows.
        """
        racing = self.space.racing
        if racing is None or not racing.by_difficulty or not row_scores:
            return None
        self._difficulties.learn(row_scores)
        if racing.best is None:
            return None
        if self._first_rows:
            return self._judge(row_scores)
        self._first_rows = self._difficulties.first_rows(racing.share)
        judged = [self._judge(each) for each in self._difficulties.models if self._first_rows]
        return judged[-1] if judged else None

    def _judge(self, row_scores: Sequence[NDArray[np.floating]]) -> Scores:
        """A model's scores on the first rows; their mean counts for the best so far, unless one is below a floor."""
        found = tuple(
            float(scores[list(rows.places)].mean(dtype=np.float64))
            for scores, rows in zip(row_scores, self._first_rows, strict=True)
        )
        if self.meets_floors(found):
            self._means.append(fmean(found[: len(self.space.objectives)]))
        return found

    def _open_archives(self) -> None:
        """Once generation 0 is scored: fix the bounds and offer the founders to the archives."""
        founders = {result.number: result.scores for result in self._results if result.scores is not None}
        if not any(number < self.space.experts for number in founders):
            raise ValueError("no expert could be evaluated")
        objectives = self.space.objectives
        self.bounds = _bounds(self.space, founders)
        bins = [objective.bins for objective in objectives]
        self.archives = [open_archive(task, self.bounds, bins, self.space.capacity) for task in range(len(bins))]
        for number, scores in founders.items():
            for archive in self.archives:  # floors do not apply: without the experts there would be no parents
                archive.add(number, scores[: len(objectives)])


def _bounds(space: SearchSpace, founders: Mapping[int, Scores]) -> Bounds:
    """Each task's bounds: the stated ones, else from the scores of the tasks' own experts (of all if none has one)."""
    own_experts = {objective.expert for objective in space.objectives} - {None} or set(range(space.experts))
    scores = [own for number, own in founders.items() if number in own_experts]
    if not scores and any(objective.bounds is None for objective in space.objectives):
        raise ValueError("none of the tasks' experts could be evaluated, so their archives have no bounds")
    bounds = []
    for task, objective in enumerate(space.objectives):
        if objective.bounds is not None:
            bounds.append(objective.bounds)
            continue
        try:
            bounds.extend(bounds_from([(own[task],) for own in scores], *space.factors))
        except EmptyRange as error:
            raise EmptyRange(task, error.worst, error.best) from None
    return tuple(bounds)
