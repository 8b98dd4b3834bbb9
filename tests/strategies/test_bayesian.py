"""Bayesian optimisation on landscapes whose best is known, and the runs that it makes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import moocore
import numpy as np
import pytest

from cycleqd_merge.evolution.archive import Scores
from cycleqd_merge.evolution.genome import Genome, Matrix
from cycleqd_merge.strategies.bayesian import Bayesian
from cycleqd_merge.strategies.cycleqd import CycleQD, Operators
from cycleqd_merge.strategies.mixed import Mixed
from cycleqd_merge.strategies.protocol import Proposal, Result, Strategy
from cycleqd_merge.strategies.random_search import RandomSearch
from cycleqd_merge.strategies.schedule import Schedule
from cycleqd_merge.strategies.space import Floor, Objective, SearchSpace

TARGETS = np.array([[0.9, 0.2, 0.1, 0.3, 0.5, 0.2], [0.1, 0.8, 0.4, 0.2, 0.1, 0.7], [0.3, 0.1, 0.9, 0.4, 0.6, 0.1]])
"""What each of three tasks likes best: coefficients of three experts in two groups."""
CHILDREN = 60
Scorer = Callable[[Proposal], Scores | None]


def space(tasks: int = 3, floors: tuple[Floor, ...] = (), levels: tuple[float, ...] = ()) -> SearchSpace:
    objectives = tuple(Objective(f"task {number}", number, 6) for number in range(tasks))
    return SearchSpace(objectives, experts=3, groups=2, floors=floors, levels=levels)


def bayesian(of: SearchSpace, seed: int = 0, bred: float = 0.0) -> Mixed:
    return Mixed(Bayesian(of, 1.0, seed), CycleQD(of, Operators(), seed), bred)


def landscape(coefficients: Matrix) -> Matrix:
    """Scores of all tasks, shape (models, tasks)."""
    return np.asarray(np.exp(-((coefficients[:, None] - TARGETS) ** 2).sum(axis=2)))


def scores_of(proposal: Proposal) -> tuple[float, ...]:
    assert isinstance(proposal.candidate, Genome)
    return tuple(landscape(proposal.candidate.coefficients.reshape(1, -1))[0].tolist())


def play(
    strategy: Strategy, children: int = CHILDREN, in_flight: int = 1, scorer: Scorer = scores_of
) -> list[Proposal]:
    """Ask and tell as a run does."""
    schedule = Schedule(strategy, in_flight, 3 + children)
    waiting, proposals = schedule.ready(), []
    while not schedule.done:
        proposals.append(waiting.pop(0))
        waiting += schedule.tell(Result(proposals[-1].number, scorer(proposals[-1])))
    return proposals


def points(proposals: list[Proposal]) -> Matrix:
    return np.array([each.candidate.coefficients.ravel() for each in proposals])  # type: ignore[union-attr]


def best_mean(scores: Matrix) -> float:
    return float(scores.mean(axis=1).max())


def volume(scores: Matrix) -> float:
    return float(moocore.hypervolume(scores, ref=0.0, maximise=True))


@pytest.mark.parametrize("tasks", [2, 3])
@pytest.mark.parametrize("in_flight", [1, 8])
def test_it_finds_more_than_random_search_by_far(tasks: int, in_flight: int) -> None:
    def scorer(proposal: Proposal) -> Scores:
        return scores_of(proposal)[:tasks]

    found, drawn = (
        np.array([scorer(each) for each in play(search, CHILDREN, in_flight, scorer)])
        for search in (bayesian(space(tasks)), RandomSearch(space(tasks), 0, -0.5, 1.5))
    )
    weights = np.random.default_rng(0).dirichlet(np.ones(tasks), 4000)  # the front lies between the tasks' best
    front = landscape(weights @ TARGETS[:tasks])[:, :tasks]
    assert best_mean(found) > 0.97 * best_mean(front)
    assert best_mean(drawn) < 0.9 * best_mean(front)
    assert volume(found) > 0.68 * volume(front)
    assert volume(drawn) < 0.45 * volume(front)


def test_children_are_new_unmutated_and_rounded_and_their_aims_take_turns() -> None:
    search = bayesian(space())
    schedule = Schedule(search, in_flight=8, total=3 + CHILDREN)
    waiting, children = schedule.ready(), []
    while not schedule.done:
        for one, other in combinations([each for each in waiting if each.number >= 3], 2):
            assert np.ptp(points([one, other]), axis=0).max() > 0.005  # what is in flight at once is not crowded
        proposal = waiting.pop(0)
        children += [proposal] if proposal.number >= 3 else []
        waiting += schedule.tell(Result(proposal.number, scores_of(proposal)))
    assert len(np.unique(points(children), axis=0)) == CHILDREN
    for child in children:
        assert isinstance(child.candidate, Genome)
        assert not child.candidate.mutations
        assert child.step["coefficients"] == child.candidate.coefficients.tolist()
        assert np.array_equal(child.candidate.coefficients, child.candidate.coefficients.round(6))
    assert [child.step["aim"] for child in children[:4]] == ["mean", "front", "mean", "front"]


@pytest.mark.parametrize("in_flight", [1, 4])
def test_most_children_keep_to_a_floor_and_gain_within_it(in_flight: int) -> None:
    """The task to keep bears but little of the first expert, which the first task likes best."""

    def kept(proposal: Proposal) -> float:
        assert isinstance(proposal.candidate, Genome)
        return float(np.clip(1.0 - proposal.candidate.coefficients[0].mean(), 0.0, 1.0))

    def scorer(proposal: Proposal) -> Scores:
        return (*scores_of(proposal), kept(proposal))

    free = play(bayesian(space()), CHILDREN, in_flight, scorer)[3:]
    search = bayesian(space(floors=(Floor(3, 0.75),)))
    bound = play(search, CHILDREN, in_flight, scorer)[3:]
    assert np.mean([kept(child) >= 0.75 for child in free[20:]]) < 0.4
    assert np.mean([kept(child) >= 0.75 for child in bound[20:]]) > 0.75
    held = np.array([scores_of(child) for child in bound if kept(child) >= 0.75])
    reachable = np.random.default_rng(0).dirichlet(np.ones(3), 4000) @ TARGETS
    reachable[:, :2] -= np.maximum(reachable[:, :2].mean(axis=1, keepdims=True) - 0.25, 0.0)
    assert best_mean(held) > 0.97 * best_mean(landscape(reachable))


def test_it_finds_the_best_though_children_fail() -> None:

    def fails(proposal: Proposal) -> Scores | None:
        return None if proposal.number % 4 == 3 else scores_of(proposal)

    found = [scores_of(each) for each in play(bayesian(space()), CHILDREN, 4, fails) if fails(each)]
    assert best_mean(np.array(found)) > 0.62  # of 0.646


def test_it_begins_with_a_single_expert_that_was_scored() -> None:
    def alone(proposal: Proposal) -> Scores | None:
        return None if proposal.number in (0, 2) else (*scores_of(proposal)[:1], 0.4)

    bounded = tuple(Objective(str(number), None, 6, (0.0, 1.0)) for number in range(2))
    of = SearchSpace(bounded, experts=3, groups=2)
    assert len(play(bayesian(of), 12, 2, alone)) == 15


@pytest.mark.parametrize("in_flight", [1, 5])
def test_told_again_it_proposes_the_same_child_next(in_flight: int) -> None:
    proposals = play(bayesian(space()), 40, in_flight)
    for told in (3, 11, 30):
        again = Schedule(bayesian(space()), in_flight, 43, [each.step for each in proposals[:told]])
        waiting = again.ready()
        for proposal in proposals[:told]:
            assert waiting.pop(0).candidate == proposal.candidate
            waiting += again.tell(Result(proposal.number, scores_of(proposal)))
        wanted = proposals[told : told + in_flight]
        assert [each.candidate for each in waiting] == [each.candidate for each in wanted]
        assert [each.step for each in waiting] == [each.step for each in wanted]


def test_warm_starts_come_first_and_both_kinds_of_children_after_them() -> None:
    search = bayesian(space(levels=(0.3, 0.6)), bred=0.5)
    children = play(search, 80, 4)[3:]
    assert [child.step for child in children[:2]] == [{"level": 0.3}, {"level": 0.6}]
    bred = [child for child in children[2:] if "parents" in child.step]
    thought_of = [child for child in children[2:] if "aim" in child.step]
    assert len(bred) + len(thought_of) == 78
    assert 0.35 < len(bred) / 78 < 0.65
    assert any(child.candidate.mutations for child in bred)  # type: ignore[union-attr]
    assert not any(child.candidate.mutations for child in thought_of)  # type: ignore[union-attr]
    parents = {"aim" in children[number - 3].step for child in bred for number in child.step["parents"] if number >= 3}
    assert parents == {True, False}
