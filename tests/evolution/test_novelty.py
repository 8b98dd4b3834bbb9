"""Archives by dominated novelty, compared with ribs', and what racing may conclude from a snapshot of one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ribs.archives import DNSArchive

from cycleqd_merge.evolution.archive import AddStatus, Archive, Bounds, Scores
from cycleqd_merge.evolution.novelty import NEIGHBOURS, NoveltyArchive, dominated_novelty, open_archive

UNIT = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]))
LOWS = st.sampled_from([-0.1, 0.0, 0.085, 0.2, 0.34])


@st.composite
def settings(draw: st.DrawFn) -> tuple[int, Bounds, int, list[Scores]]:
    """An archive of two to six tasks (its quality, bounds and capacity), and children's scores."""
    tasks = draw(st.integers(2, 6))
    bounds = tuple((low, low + draw(st.sampled_from([0.3, 0.6, 1.15]))) for low in (draw(LOWS) for _ in range(tasks)))
    children = draw(st.lists(st.tuples(*[UNIT] * tasks), max_size=30))
    return draw(st.integers(0, tasks - 1)), bounds, draw(st.integers(2, 8)), children


def places_of(scores: Scores, task: int, bounds: Bounds) -> list[float]:
    """Scores on the other tasks, scaled to [0, 1] by their bounds."""
    return [
        min(max((score - low) / (high - low), 0.0), 1.0)
        for other, (score, (low, high)) in enumerate(zip(scores, bounds, strict=True))
        if other != task
    ]


def ribs_archive(tasks: int, capacity: int) -> DNSArchive:
    return DNSArchive(solution_dim=1, measure_dim=tasks - 1, capacity=capacity, k_neighbors=NEIGHBOURS)


@given(settings())
def test_archive_equals_that_of_ribs(given: tuple[int, Bounds, int, list[Scores]]) -> None:
    task, bounds, capacity, children = given
    archive = NoveltyArchive(task, bounds, [5] * len(bounds), capacity)
    for number, scores in enumerate(children):
        before = archive.elites()
        ribs = ribs_archive(len(bounds), capacity)
        members = [*((elite.number, elite.scores) for elite in before), (number, scores)]
        places = np.array([places_of(each, task, bounds) for _, each in members])
        qualities = np.array([each[task] for _, each in members])
        novelty = ribs.compute_dns(places, qualities)
        assert dominated_novelty(places, qualities) == pytest.approx(novelty, abs=1e-9)
        added = ribs.add(np.array([[float(one)] for one, _ in members]), qualities, places)
        found = archive.add(number, scores)
        kept = {elite.number for elite in archive.elites()}
        lowest = np.flatnonzero(novelty <= novelty.min() + 1e-9)
        if len(members) <= capacity or len(lowest) == 1:
            assert kept == set(ribs.data("solution").ravel().astype(int).tolist())
            assert found.status == added["status"][-1]
            assert archive.qd_score == pytest.approx(float(ribs.stats.qd_score))
            assert archive.coverage == pytest.approx(float(ribs.stats.coverage))
        else:  # ribs drops any of them; here it is the least good, then the latest
            (dropped,) = {one for one, _ in members} - kept
            assert dropped in {members[at][0] for at in lowest}
        assert found.gain <= 0 or found.status == AddStatus.NEW
        assert (number in kept) == bool(found.status)


def test_of_equals_the_worse_and_then_the_later_is_dropped() -> None:
    archive = NoveltyArchive(0, ((0.0, 1.0),) * 2, [5, 5], 2)
    for number, scores in enumerate([(0.5, 0.5), (0.9, 0.1), (0.5, 0.5)]):
        archive.add(number, scores)
    assert [elite.number for elite in archive.elites()] == [1, 0]
    assert archive.add(3, (0.6, 0.5)).status == AddStatus.NEW  # better than #0, in the same place
    assert [elite.number for elite in archive.elites()] == [1, 3]
    rejected = archive.add(4, (0.4, 0.5))
    assert (rejected.status, rejected.gain) == (AddStatus.NOT_ADDED, pytest.approx(0.4 - 0.6))


@given(settings(), st.data())
def test_a_child_enters_no_archive_that_could_not_accept_it(
    given: tuple[int, Bounds, int, list[Scores]], data: st.DataObject
) -> None:
    task, bounds, capacity, children = given
    archive = NoveltyArchive(task, bounds, [5] * len(bounds), capacity)
    for number, scores in enumerate(children):
        archive.add(number, scores)
    pairs = [sorted(data.draw(st.tuples(UNIT, UNIT))) for _ in bounds]
    low, high = tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs)
    accepts = archive.snapshot().could_accept(low, high)
    child = tuple(data.draw(st.floats(least, most)) for least, most in pairs)
    if archive.add(len(children), child).status:
        assert accepts


def test_a_snapshot_rejects_a_child_that_is_dominated_by_near_models() -> None:
    archive = NoveltyArchive(0, ((0.0, 1.0),) * 3, [5] * 3, 6)
    for number in range(3):
        archive.add(number, (0.9, 0.5, 0.5 + number / 100))
    for number, corner in enumerate([(0.0, 1.0), (1.0, 0.0), (0.05, 0.05)]):
        archive.add(3 + number, (0.95, *corner))
    snapshot = archive.snapshot()
    assert not snapshot.could_accept((0.1, 0.5, 0.5), (0.3, 0.501, 0.501))
    assert snapshot.could_accept((0.1, 0.0, 0.0), (0.3, 1.0, 1.0))
    assert snapshot.could_accept((0.1, 0.5, 0.5), (1.0, 0.501, 0.501))


@pytest.mark.parametrize("scores", [(np.nan, 0.5), (0.5, np.nan), (np.inf, 0.5), (0.5, -np.inf)])
def test_scores_must_be_finite_numbers(scores: Scores) -> None:
    archive = NoveltyArchive(0, ((0.0, 1.0),) * 2, [5, 5], 4)
    with pytest.raises(ValueError, match="finite"):
        archive.add(0, scores)
    assert not archive.elites()


def test_a_capacity_chooses_the_kind_of_archive() -> None:
    assert type(open_archive(0, ((0.0, 1.0),) * 2, [5, 5], None)) is Archive
    opened = open_archive(0, ((0.0, 1.0),) * 2, [5, 5], 7)
    assert isinstance(opened, NoveltyArchive)
    assert opened.reachable == 7
