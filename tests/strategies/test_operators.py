"""Options of CycleQD's operators beyond the paper's, as the steps of its children show."""

from __future__ import annotations

import numpy as np
import pytest

from cycleqd_merge.evolution.archive import Scores
from cycleqd_merge.evolution.draws import generator
from cycleqd_merge.evolution.genome import Genome, crossover
from cycleqd_merge.evolution.selection import choose_mate
from cycleqd_merge.strategies.protocol import Result
from cycleqd_merge.strategies.schedule import Schedule
from cycleqd_merge.strategies.space import Floor
from tests.evolution.references import SlowArchive, flat, snapshot, synthetic_scores, weighted_sum
from tests.strategies.test_cycleqd import elites_of, play, strategy


def test_scaling_multiplies_coefficients_and_shares_by_a_factor_per_child() -> None:
    """By hand: scaling * (w1 a + w2 b) / (w1 + w2), then the child's own mutation in full."""
    proposals = play(strategy(groups=2, scaling=(1.0, 1.6), sigma=0.1), 60)
    for proposal in proposals[3:]:
        first, second = (proposals[parent].candidate for parent in proposal.step["parents"])
        weights, factor = proposal.step["weights"], proposal.step["scaling"]
        by_group = [
            [factor * w / sum(pair) for w, pair in zip(row, zip(*weights, strict=True), strict=True)] for row in weights
        ]
        wanted = weighted_sum([flat(first), flat(second)], by_group)  # type: ignore[arg-type]
        found = flat(proposal.candidate)  # type: ignore[arg-type]
        own = {key for key in found if getattr(key[0], "seed", None) == proposal.step["mutation"]["seed"]}
        assert {found[key] for key in own} == {1.0}
        for key in wanted.keys() | found.keys() - own:
            assert found.get(key, 0.0) == pytest.approx(wanted[key], abs=1e-4)


def test_scaling_is_drawn_evenly_from_its_range() -> None:
    drawn = [proposal.step["scaling"] for proposal in play(strategy(scaling=(0.5, 1.5)), 300)[3:]]
    assert 0.5 <= min(drawn) < 0.52
    assert 1.48 < max(drawn) <= 1.5
    assert np.mean(drawn) == pytest.approx(1.0, abs=0.06)


def test_scaling_of_one_is_the_plain_mean() -> None:
    plain, scaled = (play(strategy(**settings), 1)[-1] for settings in ({}, {"scaling": (1.0, 1.0)}))
    assert scaled.step == {**plain.step, "scaling": 1.0}
    a, b = Genome.from_json(plain.candidate.to_json()), scaled.candidate
    assert a == b
    assert crossover(a, a, np.ones((2, 1)), 2.0).coefficients.tolist() == (2 * a.coefficients).tolist()


def test_mates_come_from_every_other_archive() -> None:
    """Compared with archives filled by hand."""
    search = strategy(tasks=3, mates="any", sampling="random")
    archives: list[SlowArchive] = []
    known: dict[int, Scores] = {}
    elsewhere = same = 0
    for number in range(600):
        proposal = search.ask(number)
        assert proposal is not None
        if number >= 3:
            task = (number - 2) % 3
            first, second = proposal.step["parents"]
            assert first in elites_of(archives, task)
            assert second in elites_of(archives, (task + 1) % 3) | elites_of(archives, (task + 2) % 3)
            elsewhere += second not in elites_of(archives, task)
            same += first == second
        known[number] = synthetic_scores(proposal.candidate, 3)  # type: ignore[arg-type]
        search.tell(Result(number, known[number]))
        if number == 2:
            archives = [SlowArchive(task, search.state.bounds or (), [6] * 3) for task in range(3)]
        for archive in archives:
            for child in known if number == 2 else [number]:
                archive.add(child, known[child])
    assert elsewhere > 100
    assert same == 0


def test_the_only_elite_of_the_other_archive_is_its_own_mate() -> None:
    numbers, rng = np.array([4, 7]), generator(1)
    assert choose_mate(np.array([4]), np.ones(1), 4, rng) == 4
    assert {choose_mate(numbers, np.array([0.5, 0.5]), 4, rng) for _ in range(20)} == {7}
    drawn = [choose_mate(numbers, np.array([0.2, 0.8]), 9, rng) for _ in range(2000)]
    assert drawn.count(7) / 2000 == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("in_flight", [1, 6])
def test_warm_starts_are_the_first_generations_and_become_parents(in_flight: int) -> None:
    levels = (0.3, 0.5, 1.0)
    search = strategy(groups=2, levels=levels)
    schedule = Schedule(search, in_flight, total=60)
    waiting, proposals = schedule.ready(), []
    while not schedule.done:
        proposals.append(waiting.pop(0))
        scores = synthetic_scores(proposals[-1].candidate, 3)  # type: ignore[arg-type]
        waiting += schedule.tell(Result(proposals[-1].number, scores))
    assert [proposal.step for proposal in proposals[3:6]] == [{"level": level} for level in levels]
    for proposal, level in zip(proposals[3:6], levels, strict=True):
        assert flat(proposal.candidate) == {(e, g): level for e in range(3) for g in range(2)}  # type: ignore[arg-type]
    assert {parent for proposal in proposals[6:] for parent in proposal.step["parents"]} & {3, 4, 5}
    assert [proposal.step["mutation"]["expert"] for proposal in proposals[6:12]] == [1, 2, 0, 1, 2, 0]


def test_warm_starts_below_a_floor_enter_no_archive() -> None:
    search = strategy(tasks=2, levels=(0.5, 1.0), floors=(Floor(2, 0.5),))
    play(search, 2, lambda number, genome: (*synthetic_scores(genome, 2), 0.4 if number == 2 else 0.6))
    assert {elite.number for archive in search.state.archives for elite in archive.elites()} >= {3}
    assert 2 not in {elite.number for archive in search.state.archives for elite in archive.elites()}


def test_adaptive_strength_follows_the_success_of_each_tasks_children() -> None:
    """By hand, with several in flight: 2^(1/3) for a child that enters any archive, 2^(-1/12) for any other."""
    search = strategy(tasks=2, adaptive=True, sigma=0.05)
    schedule = Schedule(search, in_flight=3, total=150)
    doublings, waiting = [0.0, 0.0], schedule.ready()
    drawn: list[float] = []
    apart = False
    while not schedule.done:
        for proposal in waiting:
            if proposal.number >= 2 + len(drawn):
                task = (proposal.number - 1) % 2
                drawn.append(proposal.step["mutation"]["scale"])
                assert drawn[-1] == pytest.approx(0.3 * 2 ** doublings[task])
        proposal = waiting.pop(0)
        before = snapshot(search.state.archives)
        scores = synthetic_scores(proposal.candidate, 2, steps=30) if proposal.number % 7 else None  # type: ignore[arg-type]
        waiting += schedule.tell(Result(proposal.number, scores))
        if proposal.number >= 2:
            entered = snapshot(search.state.archives) != before
            task = (proposal.number - 1) % 2
            doublings[task] = min(max(doublings[task] + (1 / 3 if entered else -1 / 12), -3.0), 3.0)
            apart |= doublings[0] != doublings[1]
    assert apart
    assert min(drawn) < 0.3 < max(drawn)


@pytest.mark.parametrize(("succeeds", "factor"), [(True, 8.0), (False, 0.125)])
def test_the_success_rule_is_bounded_and_spreads_the_weights(succeeds: bool, factor: float) -> None:
    search = strategy(tasks=2, adaptive=True)
    better = iter(np.linspace(0.3, 1.0, 1000))

    def scorer(number: int, genome: Genome) -> Scores:
        return (float(next(better)),) * 2 if succeeds else (0.3, 0.3)

    proposals = play(search, 400, scorer)[202:]
    weights = np.array([proposal.step["weights"] for proposal in proposals])
    assert {proposal.step["mutation"]["scale"] for proposal in proposals} == {0.3 * factor}
    assert weights.std() == pytest.approx(0.03 * factor, rel=0.1)
