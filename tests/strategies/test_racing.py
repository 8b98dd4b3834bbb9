"""Children rejected early could not have entered an archive: compared with enumerated cells and with random rows."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cycleqd_merge.evolution.archive import Archive, ArchiveSnapshot, Axis, Scores
from cycleqd_merge.evolution.genome import Genome
from cycleqd_merge.strategies.difficulty import LEAST
from cycleqd_merge.strategies.protocol import Result
from cycleqd_merge.strategies.racing import Partial, Race, Racing
from cycleqd_merge.strategies.space import Floor
from tests.evolution.references import synthetic_scores
from tests.strategies.test_cycleqd import strategy

UNIT = st.integers(0, 20).map(lambda number: number / 20)
TRIPLE = st.tuples(UNIT, UNIT, UNIT)
BOUNDS = ((0.1, 0.9), (0.0, 0.8), (0.2, 1.0))


@given(st.lists(TRIPLE, max_size=30), st.tuples(TRIPLE, TRIPLE), st.integers(0, 2))
def test_a_snapshot_could_accept_a_child_if_any_scores_in_its_range_would_enter(
    earlier: list[Scores], ends: tuple[Scores, Scores], task: int
) -> None:
    """Every combination of scores between the ends is offered to a copy of the archive."""
    archive = Archive(task, BOUNDS, [2, 3, 2])
    for number, scores in enumerate(earlier):
        archive.add(number, scores)
    low, high = (tuple(pick(pair) for pair in zip(*ends, strict=True)) for pick in (min, max))
    within = [[step / 20 for step in range(round(20 * a), round(20 * b) + 1)] for a, b in zip(low, high, strict=True)]
    enters = False
    for scores in product(*within):
        offered = Archive(task, BOUNDS, [2, 3, 2])
        for number, own in enumerate(earlier):
            offered.add(number, own)
        if offered.add(99, scores).status:
            enters = True
            break
    assert archive.snapshot().could_accept(low, high) == enters


@pytest.mark.parametrize("spread", ["zeros and ones", "even"])
@pytest.mark.parametrize("mean", [0.03, 0.3, 0.8])
def test_intervals_hold_as_often_as_they_claim(mean: float, spread: str) -> None:
    rng, rows, scored, held = np.random.default_rng(5), 240, 60, 0
    for _ in range(3000):
        if spread == "even":
            values = np.clip(rng.uniform(mean - 0.2, mean + 0.2, rows), 0, 1)
        else:
            values = (rng.random(rows) < mean).astype(float)
        low, high = Partial(float(rng.permutation(values)[:scored].mean()), scored, rows).interval(0.95)
        held += low <= values.mean() <= high
    assert held / 3000 >= 0.94


def test_an_interval_of_all_rows_is_a_point_and_no_interval_exceeds_the_possible_scores() -> None:
    assert Partial(0.3, 50, 50).interval(0.99) == (0.3, 0.3)
    low, high = Partial(0.0, 1, 4).interval(0.99)
    assert (low, high) == (pytest.approx(0.0), 0.75)
    low, high = Partial(0.5, 90, 100).interval(0.9999999999)
    assert (low, high) == (pytest.approx(0.45), pytest.approx(0.55))


def race(*qualities: float, floors: tuple[tuple[int, float], ...] = ()) -> Race:
    """Two archives of one cell each, with elites of these qualities."""
    axes = (Axis(0.0, 1.0, 1), Axis(0.0, 1.0, 1))
    return Race(
        0.25, 0.99, tuple(ArchiveSnapshot(task, axes, {(0,): best}) for task, best in enumerate(qualities)), floors
    )


def test_a_child_loses_only_if_no_archive_could_accept_it() -> None:
    poor, good = Partial(0.1, 60, 240), Partial(0.6, 60, 240)
    assert race(0.5, 0.9).lost([poor, poor])
    assert not race(0.5, 0.9).lost([good, poor])
    assert race(0.9, 0.9).lost([good, poor])
    assert not race(0.15, 0.9).lost([poor, poor])
    empty_cell = Race(0.25, 0.99, (ArchiveSnapshot(0, (Axis(0.0, 1.0, 1), Axis(0.0, 1.0, 2)), {(1,): 1.0}),))
    assert not empty_cell.lost([poor, poor])
    assert race(0.15, 0.9, floors=((2, 0.9),)).lost([poor, poor, good])


def test_the_first_rows_are_a_fixed_subset() -> None:
    one = race(0.5, 0.5)
    assert one.first(0, 240) == one.first(1, 240)
    places = one.first(0, 240).places
    assert list(places) == sorted(set(places))
    assert [len(one.first(0, rows).places) for rows in (1, 2, 3, 240)] == [1, 1, 1, 60]
    assert set(places) != set(range(60))


def test_a_child_that_must_be_among_the_best_is_judged_by_the_mean_of_the_objectives() -> None:
    one, other = Partial(0.3, 60, 240), Partial(0.6, 60, 240)
    kept = Partial(0.9, 60, 240)
    for best, lost in ((0.44, False), (0.45, True), (0.46, True)):
        assert replace(race(0.99, 0.99), above=best).lost([one, other, kept]) == lost
    assert replace(race(0.1, 0.1, floors=((2, 0.99),)), above=0.1).lost([one, other, kept])


def test_all_children_are_compared_on_the_same_rows_if_only_the_best_is_kept() -> None:
    search = strategy(tasks=2, racing=Racing(0.01, 0.99, by_difficulty=True, best=2)).state
    rng = np.random.default_rng(0)
    told = []
    for number in range(12):
        candidate = search.founder(number) if number < 2 else search.propose(number, search.genome(0), {})
        assert candidate is not None
        rows = tuple(rng.random(5) for _ in range(2))
        race = candidate.race
        told.append((rows, race, search.tell(Result(number, tuple(float(own.mean()) for own in rows), (), rows))))
    assert [race is None for _, race, _ in told] == [number < LEAST for number in range(12)]
    for rows, race, insertion in told[LEAST:]:
        assert race is not None
        places = [race.first(task, 5).places for task in range(2)]
        assert [len(each) for each in places] == [1, 1]
        own = tuple(float(scores[list(place)].mean()) for scores, place in zip(rows, places, strict=True))
        assert insertion.ranked == pytest.approx(own)
        assert insertion.scores == pytest.approx([scores.mean() for scores in rows])
        assert {str(race.chosen)} == {str(each.chosen) for _, each, _ in told if each is not None}
    bests = [race.above for _, race, _ in told if race is not None]
    places = [told[-1][1].first(task, 5).places[0] for task in range(2)]  # type: ignore[union-attr]
    means = [float(np.mean([rows[0][places[0]], rows[1][places[1]]])) for rows, _, _ in told]
    assert bests == pytest.approx([sorted(means[:number])[-2] for number in range(LEAST, 12)])


def test_children_race_against_the_archives_of_their_time_and_founders_do_not() -> None:
    search = strategy(tasks=2, racing=Racing(0.25, 0.99), floors=(Floor(2, 0.4),))

    def scorer(number: int, genome: Genome) -> Scores:
        return (*synthetic_scores(genome, 2), 0.5)

    for number in range(42):
        archives = tuple(archive.snapshot() for archive in search.state.archives)
        proposal = search.ask(number)
        assert proposal is not None
        assert proposal.race == (None if number < 2 else Race(0.25, 0.99, archives, ((2, 0.4),)))
        search.tell(Result(number, scorer(number, search.state.genome(number))))
    assert len(archives[0].qualities) > 3
