"""Archives, against a dict of cells filled with exact arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ribs.archives import GridArchive

from cycleqd_merge.evolution.archive import Archive, Bounds, EmptyRange, Scores, bounds_from
from tests.evolution.references import SlowArchive, slow_snapshot, snapshot

UNIT = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.2, 0.25, 0.3, 0.5, 0.6, 0.7, 0.9, 1.0]))
BOUNDS = st.sampled_from([(0.0, 1.0), (0.085, 0.69), (0.0, 0.3), (0.2, 0.9), (0.1, 1.15), (0.34, 0.35)])


@st.composite
def settings(draw: st.DrawFn) -> tuple[int, Bounds, list[int], list[Scores]]:
    """The quality of an archive of two to four tasks, bounds, bins, and children's scores."""
    tasks = draw(st.integers(2, 4))
    bounds = tuple(draw(BOUNDS) for _ in range(tasks))
    bins = [draw(st.integers(1, 6)) for _ in range(tasks)]
    children = draw(st.lists(st.tuples(*[UNIT] * tasks), max_size=40))
    return draw(st.integers(0, tasks - 1)), bounds, bins, children


@given(settings())
def test_archive_holds_what_a_plain_dictionary_of_cells_holds(
    given: tuple[int, Bounds, list[int], list[Scores]],
) -> None:
    task, bounds, bins, children = given
    archive, slow = Archive(task, bounds, bins), SlowArchive(task, bounds, bins)
    for number, scores in enumerate(children):
        assert archive.cell_of(scores) == slow.cell_of(scores)
        assert bool(archive.add(number, scores).status) == slow.add(number, scores)
    held = slow.cells.values()
    assert snapshot([archive]) == slow_snapshot([slow])
    assert archive.qd_score == pytest.approx(math.fsum(scores[task] for _, scores in held))
    assert archive.coverage == len(held) / archive.reachable
    best = archive.best()
    assert (best and best.number) == min(held, key=lambda one: (-one[1][task], one[0]), default=(None,))[0]


@given(settings())
def test_table_and_heatmap_show_the_same_elites(given: tuple[int, Bounds, list[int], list[Scores]]) -> None:
    task, bounds, bins, children = given
    archive = Archive(task, bounds, bins)
    for number, scores in enumerate(children):
        archive.add(number, scores)
    numbers, scores_by_row = archive.table()
    elites = archive.elites()
    assert numbers.tolist() == [elite.number for elite in elites]
    assert [tuple(row) for row in scores_by_row.tolist()] == [elite.scores for elite in elites]
    grid = archive.heatmap()
    assert grid.shape == archive.shape == tuple(bins[other] for other in range(len(bins)) if other != task)
    assert {cell: float(grid[cell]) for cell in zip(*map(list, np.nonzero(~np.isnan(grid))), strict=True)} == {
        elite.cell: elite.scores[task] for elite in elites
    }


def test_only_a_strictly_better_child_takes_a_cell() -> None:
    archive = Archive(0, ((0.0, 1.0), (0.0, 1.0)), [5, 5])
    assert archive.add(0, (0.5, 0.41)).status
    assert not archive.add(1, (0.5, 0.42)).status
    assert not archive.add(2, (0.4, 0.42)).status
    assert archive.add(3, (math.nextafter(0.5, 1), 0.42)).status
    assert snapshot([archive]) == [[((2,), 3, (math.nextafter(0.5, 1), 0.42))]]


@given(settings())
def test_entries_are_those_that_ribs_itself_reports(given: tuple[int, Bounds, list[int], list[Scores]]) -> None:
    task, bounds, bins, children = given
    others = [other for other in range(len(bounds)) if other != task]
    grid = GridArchive(
        solution_dim=0, dims=[bins[other] for other in others], ranges=[bounds[other] for other in others]
    )
    archive = Archive(task, bounds, bins)
    for number, scores in enumerate(children):
        measures = [min(max(scores[other], bounds[other][0]), bounds[other][1]) for other in others]
        wanted = grid.add_single([], scores[task], measures)
        found = archive.add(number, scores)
        assert (found.status, found.gain) == (wanted["status"], pytest.approx(wanted["value"]))


def test_a_child_that_scores_nothing_enters_an_empty_cell() -> None:
    archive = Archive(0, ((0.0, 1.0), (0.0, 1.0)), [5, 5])
    assert archive.add(0, (0.0, 0.0)).status
    assert archive.coverage == 0.2


@pytest.mark.parametrize(("score", "cell"), [(0.0, 0), (0.19, 0), (0.2, 0), (0.45, 1), (0.6, 1), (0.61, 1), (1.0, 1)])
def test_scores_outside_the_bounds_belong_to_the_edge_cell(score: float, cell: int) -> None:
    archive = Archive(1, ((0.2, 0.6), (0.0, 1.0)), [2, 2])
    assert archive.cell_of((score, 0.5)) == (cell,)


@pytest.mark.parametrize(
    "bounds",
    [(0.0, 1.0), (0.0, 1.15), (0.765, 1.035), (0.0, 1.5), (0.5, 3.0), (-1.0, 1.0), (-0.4, 0.5), (1.2, 1.5), (0.1, 0.2)],
)
@pytest.mark.parametrize("bins", [1, 3, 10, 15])
def test_coverage_counts_only_cells_that_scores_can_reach(bounds: tuple[float, float], bins: int) -> None:
    archive = Archive(2, (bounds, (0.0, 2.0), (0.0, 1.0)), [bins, 4, 4])
    sweep = [step / 3000 for step in range(3001)]
    reached = {archive.cell_of((score, score, 0.0))[0] for score in sweep}
    second_axis = {archive.cell_of((score, score, 0.0))[1] for score in sweep}
    assert archive.reachable == len(reached) * len(second_axis)
    for number, score in enumerate(sweep):
        for other in (0.0, 0.5, 1.0):
            archive.add(number, (score, other, 0.5))
    assert archive.coverage == 1.0


def test_bounds_widen_the_range_of_the_scores() -> None:
    scores = [(0.4, 0.1), (0.2, 0.1), (0.8, 0.0)]
    assert bounds_from(scores, 0.85, 1.15) == ((0.2 * 0.85, 0.8 * 1.15), (0.0, 0.1 * 1.15))


@pytest.mark.parametrize("column", [[0.0, 0.0], [0.0]])
def test_scores_without_a_range_name_their_task(column: list[float]) -> None:
    with pytest.raises(EmptyRange, match="task 1") as raised:
        bounds_from([(0.5, score) for score in column], 0.85, 1.15)
    assert (raised.value.task, raised.value.worst, raised.value.best) == (1, 0.0, 0.0)


def test_equal_scores_above_zero_still_have_a_range() -> None:
    ((low, high),) = bounds_from([(0.5,), (0.5,)], 0.85, 1.15)
    assert low < 0.5 < high
