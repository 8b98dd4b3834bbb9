"""A toy search that the tests of all strategies share: two experts, two groups, two tasks with smooth scores."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cycleqd_merge.evolution.archive import Scores
from cycleqd_merge.evolution.genome import Genome, Matrix
from cycleqd_merge.strategies.protocol import Proposal, Result, Strategy
from cycleqd_merge.strategies.schedule import Schedule
from cycleqd_merge.strategies.space import Floor, Objective, SearchSpace
from cycleqd_merge.strategies.state import SearchState

TARGETS = np.array([[0.9, 0.2, 0.1, 0.3], [0.1, 0.8, 0.4, 0.2]])
"""The coefficients at which each task scores 1."""
Scorer = Callable[[Proposal], Scores | None]


def fresh(floors: tuple[Floor, ...] = (), levels: tuple[float, ...] = ()) -> SearchState:
    """The state at the start of a search; a third task is one to keep."""
    objectives = tuple(Objective(name, number, 6) for number, name in enumerate(("sql", "bash")))
    return SearchState(SearchSpace(objectives, experts=2, groups=2, floors=floors, levels=levels))


def scores_of(vector: Matrix) -> tuple[float, ...]:
    """Scores of both tasks at these coefficients, in [0, 1]."""
    return tuple(float(np.exp(-np.sum((vector.ravel() - target) ** 2))) for target in TARGETS)


def score(proposal: Proposal) -> Scores:
    """Scores of all three tasks."""
    assert isinstance(proposal.candidate, Genome)
    return (*scores_of(proposal.candidate.coefficients), 0.5)


def play(strategy: Strategy, generations: int, scorer: Scorer = score, in_flight: int = 1) -> list[Proposal]:
    """Ask and tell as a run does; returns all proposals."""
    schedule = Schedule(strategy, in_flight, 2 + generations)
    waiting, proposals = schedule.ready(), []
    while not schedule.done:
        proposal = waiting.pop(0)
        proposals.append(proposal)
        waiting += schedule.tell(Result(proposal.number, scorer(proposal)))
    return proposals


def coefficients(proposals: list[Proposal]) -> list[list[float]]:
    """The coefficients of proposed genomes, flat."""
    return [proposal.candidate.coefficients.ravel().tolist() for proposal in proposals]  # type: ignore[union-attr]
