"""Bayesian optimisation on landscapes whose optimum is known."""

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
from cycleqd_merge.strategies.optimisers import RandomSearch
from cycleqd_merge.strategies.protocol import Proposal, Result, Strategy
from cycleqd_merge.strategies.schedule import Schedule
from cycleqd_merge.strategies.space import Floor, Objective, SearchSpace
from cycleqd_merge.strategies.state import SearchState

TARGETS = np.array([[0.9, 0.2, 0.1, 0.3, 0.5, 0.2], [0.1, 0.8, 0.4, 0.2, 0.1, 0.7], [0.3, 0.1, 0.9, 0.4, 0.6, 0.1]])
"""The coefficients, of three experts in two groups, at which each of three tasks scores 1."""
CHILDREN = 60
Scorer = Callable[[Proposal], Scores | None]


def fresh(tasks: int = 3, floors: tuple[Floor, ...] = (), levels: tuple[float, ...] = ()) -> SearchState:
    objectives = tuple(Objective(f"task {number}", number, 6) for number in range(tasks))
    return SearchState(SearchSpace(objectives, experts=3, groups=2, floors=floors, levels=levels))


def bayesian(state: SearchState, seed: int = 0, share: float = 0.0) -> Mixed:
    return Mixed(Bayesian(state, 1.0, seed), CycleQD(state, Operators(), seed), share)


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
def test_it_finds_far_more_than_random_search(tasks: int, in_flight: int) -> None:
    def scorer(proposal: Proposal) -> Scores:
        return scores_of(proposal)[:tasks]

    found, drawn = (
        np.array([scorer(each) for each in play(search, CHILDREN, in_flight, scorer)])
        for search in (bayesian(fresh(tasks)), RandomSearch(fresh(tasks), 0, -0.5, 1.5))
    )
    weights = np.random.default_rng(0).dirichlet(np.ones(tasks), 4000)  # the front is between the tasks' optima
    front = landscape(weights @ TARGETS[:tasks])[:, :tasks]
    assert best_mean(found) > 0.97 * best_mean(front)
    assert best_mean(drawn) < 0.9 * best_mean(front)
    assert volume(found) > 0.68 * volume(front)
    assert volume(drawn) < 0.45 * volume(front)


def test_children_are_new_unmutated_and_rounded_and_their_aims_alternate() -> None:
    search = bayesian(fresh())
    schedule = Schedule(search, in_flight=8, total=3 + CHILDREN)
    waiting, children = schedule.ready(), []
    while not schedule.done:
        for one, other in combinations([each for each in waiting if each.number >= 3], 2):
            assert np.ptp(points([one, other]), axis=0).max() > 0.005  # children in flight do not cluster
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
def test_most_children_hold_a_floor_and_improve_above_it(in_flight: int) -> None:
    """The task to keep loses by the first expert, from which the first task gains most."""

    def kept(proposal: Proposal) -> float:
        assert isinstance(proposal.candidate, Genome)
        return float(np.clip(1.0 - proposal.candidate.coefficients[0].mean(), 0.0, 1.0))

    def scorer(proposal: Proposal) -> Scores:
        return (*scores_of(proposal), kept(proposal))

    free = play(bayesian(fresh()), CHILDREN, in_flight, scorer)[3:]
    search = bayesian(fresh(floors=(Floor(3, 0.75),)))
    bound = play(search, CHILDREN, in_flight, scorer)[3:]
    assert np.mean([kept(child) >= 0.75 for child in free[20:]]) < 0.4
    assert np.mean([kept(child) >= 0.75 for child in bound[20:]]) > 0.75
    held = np.array([scores_of(child) for child in bound if kept(child) >= 0.75])
    reachable = np.random.default_rng(0).dirichlet(np.ones(3), 4000) @ TARGETS
    reachable[:, :2] -= np.maximum(reachable[:, :2].mean(axis=1, keepdims=True) - 0.25, 0.0)
    assert best_mean(held) > 0.97 * best_mean(landscape(reachable))


def test_it_finds_the_optimum_although_children_fail() -> None:
    def fails(proposal: Proposal) -> Scores | None:
        return None if proposal.number % 4 == 3 else scores_of(proposal)

    found = [scores_of(each) for each in play(bayesian(fresh()), CHILDREN, 4, fails) if fails(each)]
    assert best_mean(np.array(found)) > 0.62  # the optimum is 0.646


def test_it_predicts_from_children_that_racing_rejected_but_does_not_vary_them() -> None:
    """A rejected child has the best scores: predictions near it are high, yet it is no model of the front."""
    state = fresh()
    search = bayesian(state)
    for number in range(3):
        proposal = search.ask(number)
        assert proposal is not None
        search.tell(Result(number, scores_of(proposal), (0.001,) * 3))
    proposal = search.ask(3)
    assert proposal is not None
    search.tell(Result(3, None, (0.01,) * 3, estimated=(0.9, 0.8, 0.7)))
    own = Bayesian(state, 1.0, 0, "rows")
    found, scores, variances, complete = own._evaluated()
    np.testing.assert_array_equal(found[3], points([proposal])[0])
    np.testing.assert_array_equal(scores[3], (0.9, 0.8, 0.7))
    assert complete.tolist() == [True, True, True, False]
    assert variances is not None
    np.testing.assert_array_equal(variances[:, 0], [0.001, 0.001, 0.001, 0.01])
    assert search.ask(4) is not None


def test_a_single_scored_expert_is_enough() -> None:
    def alone(proposal: Proposal) -> Scores | None:
        return None if proposal.number in (0, 2) else (*scores_of(proposal)[:1], 0.4)

    bounded = tuple(Objective(str(number), None, 6, (0.0, 1.0)) for number in range(2))
    state = SearchState(SearchSpace(bounded, experts=3, groups=2))
    assert len(play(bayesian(state), 12, 2, alone)) == 15


@pytest.mark.parametrize("in_flight", [1, 5])
def test_a_restored_search_proposes_the_same_next_children(in_flight: int) -> None:
    proposals = play(bayesian(fresh()), 40, in_flight)
    for received in (3, 11, 30):
        again = Schedule(bayesian(fresh()), in_flight, 43, [each.step for each in proposals[:received]])
        waiting = again.ready()
        for proposal in proposals[:received]:
            assert waiting.pop(0).candidate == proposal.candidate
            waiting += again.tell(Result(proposal.number, scores_of(proposal)))
        wanted = proposals[received : received + in_flight]
        assert [each.candidate for each in waiting] == [each.candidate for each in wanted]
        assert [each.step for each in waiting] == [each.step for each in wanted]


def test_warm_starts_come_first_and_both_sources_of_children_follow() -> None:
    search = bayesian(fresh(levels=(0.3, 0.6)), share=0.5)
    children = play(search, 80, 4)[3:]
    assert [child.step for child in children[:2]] == [{"level": 0.3}, {"level": 0.6}]
    crossed = [child for child in children[2:] if "parents" in child.step]
    predicted = [child for child in children[2:] if "aim" in child.step]
    assert len(crossed) + len(predicted) == 78
    assert 0.35 < len(crossed) / 78 < 0.65
    assert any(child.candidate.mutations for child in crossed)  # type: ignore[union-attr]
    assert not any(child.candidate.mutations for child in predicted)  # type: ignore[union-attr]
    parents = {
        "aim" in children[number - 3].step for child in crossed for number in child.step["parents"] if number >= 3
    }
    assert parents == {True, False}
