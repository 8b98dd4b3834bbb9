"""CycleQD plays Algorithm 1, as its steps and archives show from outside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cycleqd_merge.evolution.archive import EmptyRange, Scores
from cycleqd_merge.evolution.genome import Genome, Mutation, crossover, expert_genome, mutate
from cycleqd_merge.strategies.cycleqd import CycleQD, Operators
from cycleqd_merge.strategies.protocol import Proposal, Result
from cycleqd_merge.strategies.space import Floor, Objective, SearchSpace
from cycleqd_merge.strategies.state import SearchState
from tests.evolution.references import SlowArchive, slow_snapshot, snapshot, synthetic_scores

Scorer = Callable[[int, Genome], Scores | None]
SPACE = {"objectives", "experts", "groups", "floors", "founders", "factors", "levels", "racing"}
NAMES = ("sql", "bash", "math", "chat")


def strategy(tasks: int = 3, seed: int = 0, **settings: Any) -> CycleQD:
    """Tasks with an expert each and six bins; `settings` belong to the space or to the operators."""
    of_space = {
        "objectives": tuple(Objective(NAMES[task], task, 6) for task in range(tasks)),
        "experts": tasks,
        "groups": 1,
        **{key: settings.pop(key) for key in SPACE & settings.keys()},
    }
    return CycleQD(SearchState(SearchSpace(**of_space)), replace(Operators(), **settings), seed)


def play(search: CycleQD, generations: int, scorer: Scorer | None = None) -> list[Proposal]:
    """Ask, score and tell, one child after the other; returns all proposals."""
    proposals = []
    for number in range(search.state.first + generations):
        proposal = search.ask(number)
        assert proposal is not None
        assert isinstance(proposal.candidate, Genome)
        proposals.append(proposal)
        search.tell(Result(number, (scorer or plain(search))(number, proposal.candidate)))
    return proposals


def plain(search: CycleQD) -> Scorer:
    """Scores that depend on the genome alone."""
    return lambda _, genome: synthetic_scores(genome, len(search.state.objectives))


def elites_of(archives: Sequence[SlowArchive], task: int) -> set[int]:
    """Numbers of an archive's elites."""
    return {number for number, _ in archives[task].cells.values()}


@pytest.mark.parametrize("tasks", [2, 3, 4])
def test_tasks_take_turns_as_the_quality(tasks: int) -> None:
    """Generation t picks its parents from the archive of task t mod K and mutates along that task's expert."""
    search = strategy(tasks)
    archives: list[SlowArchive] = []
    picked_elsewhere = 0
    for number in range(tasks + 60):
        proposal = search.ask(number)
        assert proposal is not None
        assert isinstance(proposal.candidate, Genome)
        if number >= tasks:
            task = (number - tasks + 1) % tasks
            parents = set(proposal.step["parents"])
            assert parents <= elites_of(archives, task)
            picked_elsewhere += any(not parents <= elites_of(archives, other) for other in range(tasks))
            assert proposal.step["mutation"]["expert"] == task
        scores = synthetic_scores(proposal.candidate, tasks)
        search.tell(Result(number, scores))
        if number == tasks - 1:
            assert search.state.bounds is not None
            archives = [SlowArchive(task, search.state.bounds, [6] * tasks) for task in range(tasks)]
            for expert in range(tasks):
                own = synthetic_scores(search.state.genome(expert), tasks)
                for archive in archives:
                    archive.add(expert, own)
        elif number >= tasks:
            for archive in archives:
                archive.add(number, scores)
    assert snapshot(search.state.archives) == slow_snapshot(archives)
    assert picked_elsewhere  # the archives differ, so the test would notice if tasks took no turns


def test_a_child_can_be_rebuilt_from_its_step() -> None:
    search = strategy(groups=2)
    proposals = play(search, 60)
    rebuilt: list[Genome] = []
    for proposal in proposals:
        step = proposal.step
        if "expert" in step:
            genome = proposal.candidate
        else:
            first, second = step["parents"]
            genome = crossover(rebuilt[first], rebuilt[second], np.array(step["weights"]))
            genome = mutate(genome, Mutation.from_json(step["mutation"]))
        assert genome == proposal.candidate
        rebuilt.append(genome)  # type: ignore[arg-type]


def test_crossover_weights_are_drawn_per_group_around_mu() -> None:
    proposals = play(strategy(groups=5, mu=2.0, sigma=0.1), 120)
    weights = np.array([proposal.step["weights"] for proposal in proposals[3:]])
    assert weights.shape == (120, 2, 5)
    assert weights.mean() == pytest.approx(2.0, abs=0.02)
    assert weights.std() == pytest.approx(0.1, abs=0.01)
    assert len(np.unique(weights)) == weights.size


def test_a_task_without_an_expert_mutates_along_random_ones() -> None:
    objectives = (Objective("sql", 0, 6), Objective("general", None, 6), Objective("math", 2, 6))
    proposals = play(strategy(objectives=objectives, experts=3), 120)
    drawn: dict[int, set[int]] = {0: set(), 1: set(), 2: set()}
    for number, proposal in enumerate(proposals[3:], start=1):
        drawn[number % 3].add(proposal.step["mutation"]["expert"])
    assert drawn == {0: {0}, 1: {0, 1, 2}, 2: {2}}


@pytest.mark.parametrize(("kind", "expected"), [("gaussian", {"kind", "seed", "scale"}), ("none", None)])
def test_other_kinds_of_mutation_name_no_expert(kind: str, expected: set[str] | None) -> None:
    for proposal in play(strategy(mutation=kind), 12)[3:]:
        mutation = proposal.step.get("mutation")
        assert (mutation and set(mutation)) == expected


def test_every_mutation_has_its_own_seed() -> None:
    seeds = [proposal.step["mutation"]["seed"] for proposal in play(strategy(), 200)[3:]]
    assert len(set(seeds)) == 200


def test_failed_evaluations_enter_no_archive() -> None:
    search = strategy()
    failing = set(range(4, 93, 3))
    proposals = play(search, 90, lambda number, genome: None if number in failing else synthetic_scores(genome, 3))
    held = {elite.number for archive in search.state.archives for elite in archive.elites()}
    parents = {parent for proposal in proposals[3:] for parent in proposal.step["parents"]}
    assert held - {0, 1, 2}
    assert not (held | parents) & failing


def test_children_below_a_floor_enter_no_archive_but_experts_do() -> None:
    search = strategy(tasks=2, floors=(Floor(2, 0.5), Floor(3, 0.3)))

    def scorer(number: int, genome: Genome) -> Scores:
        kept = 0.1 if number < 2 else (number % 10) / 10
        return (*synthetic_scores(genome, 2), kept, 0.3 if number % 4 else 0.2)

    play(search, 80, scorer)
    held = {elite.number for archive in search.state.archives for elite in archive.elites()}
    assert held & {0, 1}
    assert held - {0, 1}
    assert all(number < 2 or (number % 10 >= 5 and number % 4) for number in held)
    assert all(len(elite.scores) == 2 for archive in search.state.archives for elite in archive.elites())


def scores_of_experts(*rows: Scores | None) -> Scorer:
    """These scores for the experts, 0.5 for all others."""
    return lambda number, _: rows[number] if number < len(rows) else (0.5,) * 3


def test_bounds_follow_from_the_tasks_own_experts_only() -> None:
    search = strategy(tasks=2, experts=3)
    play(search, 1, scores_of_experts((0.8, 0.2), (0.1, 0.6), (1.0, 1.0)))
    assert search.state.bounds == ((0.1 * 0.85, 0.8 * 1.15), (0.2 * 0.85, 0.6 * 1.15))


def test_bounds_of_tasks_without_experts_follow_from_all_experts() -> None:
    objectives = (Objective("sql", None, 6), Objective("bash", None, 6))
    search = strategy(objectives=objectives, experts=3)
    play(search, 1, scores_of_experts((0.8, 0.2), (0.1, 0.6), (1.0, 1.0)))
    assert search.state.bounds == ((0.1 * 0.85, 1.15), (0.2 * 0.85, 1.15))


def test_stated_bounds_take_precedence() -> None:
    objectives = (Objective("sql", 0, 6, bounds=(0.0, 1.0)), Objective("bash", 1, 6))
    search = strategy(objectives=objectives, experts=2)
    play(search, 1, scores_of_experts((0.0, 0.2), (0.0, 0.6)))
    assert search.state.bounds == ((0.0, 1.0), (0.2 * 0.85, 0.6 * 1.15))


def test_a_task_on_which_all_experts_score_zero_is_named() -> None:
    search = strategy(tasks=3)
    with pytest.raises(EmptyRange) as raised:
        play(search, 1, scores_of_experts((0.5, 0.2, 0.0), (0.1, 0.6, 0.0), (0.3, 0.3, 0.0)))
    assert raised.value.task == 2


def test_the_search_goes_on_without_a_failed_expert() -> None:
    search = strategy(tasks=3)
    play(search, 6, scores_of_experts((0.5, 0.2, 0.1), None, (0.3, 0.3, 0.9)))
    assert search.state.bounds is not None
    assert search.state.bounds[1] == (0.2 * 0.85, 0.3 * 1.15)
    held = {elite.number for archive in search.state.archives for elite in archive.elites()}
    assert 1 not in held


def test_a_search_without_any_scored_expert_is_an_error() -> None:
    with pytest.raises(ValueError, match="no expert could be evaluated"):
        play(strategy(tasks=2), 1, scores_of_experts(None, None))


def test_a_search_whose_tasks_lost_all_their_experts_is_an_error() -> None:
    """A third expert that belongs to no task cannot give the bounds."""
    with pytest.raises(ValueError, match="expert"):
        play(strategy(tasks=2, experts=3), 1, scores_of_experts(None, None, (0.5, 0.5)))


def test_numbers_must_be_asked_and_told_in_order() -> None:
    search = strategy()
    with pytest.raises(ValueError, match="asked for number 1, but 0 is next"):
        search.ask(1)
    search.ask(0)
    with pytest.raises(ValueError, match="received result 1, but 0 is next"):
        search.tell(Result(1, (0.1, 0.2, 0.3)))


def test_the_first_child_waits_for_the_last_expert() -> None:
    search = strategy()
    for expert in range(3):
        assert search.ask(expert) is not None
    for expert in range(3):
        assert search.ask(3) is None
        search.tell(Result(expert, (0.1 + expert / 10,) * 3))
    assert search.ask(3) is not None


def test_a_search_depends_on_its_seed() -> None:
    first, again, other = (play(strategy(seed=seed), 40) for seed in (5, 5, 6))
    assert [proposal.step for proposal in first] == [proposal.step for proposal in again]
    assert [proposal.step["weights"] for proposal in first[3:]] != [proposal.step["weights"] for proposal in other[3:]]


def test_other_founders_enter_the_archives_together_with_the_experts() -> None:
    """Founders are numbered after the experts, generation 1 after the founders; bounds follow from the experts only."""
    founder = mutate(expert_genome(1, 2, 1), Mutation("svd", 0, 99, 0.3))
    search = strategy(tasks=2, founders=(founder,))
    proposals = play(search, 2, scores_of_experts((0.8, 0.2), (0.1, 0.6), (0.95, 0.9)))
    assert [proposal.step for proposal in proposals[:3]] == [{"expert": 0}, {"expert": 1}, {"seed": 0}]
    assert proposals[2].candidate == founder
    assert search.state.bounds == ((0.1 * 0.85, 0.8 * 1.15), (0.2 * 0.85, 0.6 * 1.15))
    assert [best.number for archive in search.state.archives if (best := archive.best())] == [2, 2]
    assert [proposal.step["mutation"]["expert"] for proposal in proposals[3:]] == [1, 0]


def test_factors_of_the_bounds_are_those_stated() -> None:
    search = strategy(tasks=2, factors=(0.5, 2.0))
    play(search, 1, scores_of_experts((0.4, 0.2), (0.1, 0.3)))
    assert search.state.bounds == ((0.05, 0.8), (0.1, 0.6))


def test_bins_are_those_of_the_other_tasks() -> None:
    objectives = (Objective("sql", 0, 3), Objective("bash", 1, 5), Objective("math", 2, 7))
    search = strategy(objectives=objectives, experts=3)
    play(search, 1)
    assert [archive.shape for archive in search.state.archives] == [(5, 7), (3, 7), (3, 5)]
