"""Archives, compared with a dict of cells and exact arithmetic, and with ribs."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ribs.archives import AddStatus as RibsStatus
from ribs.archives import GridArchive

from cycleqd_merge.evolution.archive import AddStatus, Archive, Bounds, EmptyRange, Scores, bounds_from
from tests.evolution.references import SlowArchive, slow_snapshot, snapshot

UNIT = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.2, 0.25, 0.3, 0.5, 0.6, 0.7, 0.9, 1.0]))
BOUNDS = st.sampled_from([(0.0, 1.0), (0.085, 0.69), (0.0, 0.3), (0.2, 0.9), (0.1, 1.15), (0.34, 0.35)])


@st.composite
def settings(draw: st.DrawFn) -> tuple[int, Bounds, list[int], list[Scores]]:
    """An archive of two to four tasks (its quality, bounds and bins), and children's scores."""
    tasks = draw(st.integers(2, 4))
    bounds = tuple(draw(BOUNDS) for _ in range(tasks))
    bins = [draw(st.integers(1, 6)) for _ in range(tasks)]
    children = draw(st.lists(st.tuples(*[UNIT] * tasks), max_size=40))
    return draw(st.integers(0, tasks - 1)), bounds, bins, children


@given(settings())
def test_archive_equals_a_plain_dictionary_of_cells(
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


@st.composite
def settings_with_edges(draw: st.DrawFn) -> tuple[int, Bounds, list[int], list[Scores]]:
    """As `settings`, with bounds of any position and width, and many scores on bin edges or outside the bounds."""
    tasks = draw(st.integers(2, 4))
    lows = [draw(st.floats(-1, 1)) for _ in range(tasks)]
    bounds = tuple((low, low + draw(st.floats(1e-3, 2))) for low in lows)
    bins = [draw(st.integers(1, 20)) for _ in range(tasks)]
    columns = [near_edges(low, high, count) for (low, high), count in zip(bounds, bins, strict=True)]
    children = draw(st.lists(st.tuples(*columns), max_size=60))
    return draw(st.integers(0, tasks - 1)), bounds, bins, children


def near_edges(low: float, high: float, bins: int) -> st.SearchStrategy[float]:
    """Scores on bin edges and just below and above them, inside the bounds, and far outside."""
    edges = np.linspace(low, high, bins + 1).tolist()
    shifts = [0.0, 1e-6 / bins, 1e-7 / bins, 1e-5]
    shifted = st.tuples(st.sampled_from(edges), st.sampled_from(shifts), st.sampled_from([-1.0, 1.0]))
    close = st.sampled_from([math.nextafter(edge, way) for edge in edges for way in (-math.inf, math.inf)])
    return st.one_of(shifted.map(lambda one: one[0] + one[1] * one[2]), close, st.floats(low, high), st.floats(-9, 9))


@given(settings_with_edges())
def test_archive_equals_that_of_ribs(given: tuple[int, Bounds, list[int], list[Scores]]) -> None:
    task, bounds, bins, children = given
    others = [other for other in range(len(bounds)) if other != task]
    grid = GridArchive(
        solution_dim=len(bounds),
        dims=[bins[other] for other in others],
        ranges=[bounds[other] for other in others],
        extra_fields={"number": ((), np.int64)},
    )
    archive = Archive(task, bounds, bins)
    for number, scores in enumerate(children):
        measures = [min(max(scores[other], bounds[other][0]), bounds[other][1]) for other in others]
        wanted = grid.add_single(list(scores), scores[task], measures, number=number)
        found = archive.add(number, scores)
        assert (found.status, found.gain) == (wanted["status"], wanted["value"])
        assert archive.qd_score == pytest.approx(float(grid.stats.qd_score), abs=1e-12)
        assert archive.coverage * archive.reachable == pytest.approx(float(grid.stats.coverage) * grid.cells)
    data = grid.data(["solution", "number", "index"])
    order = np.argsort(data["index"])
    numbers, table = archive.table()
    assert (numbers.dtype, table.dtype, table.shape) == (np.int64, np.float64, data["solution"].shape)
    assert numbers.tolist() == data["number"][order].tolist()
    assert table.tolist() == data["solution"][order].tolist()
    cells = [elite.cell for elite in archive.elites()]
    assert cells == [tuple(cell) for cell in grid.int_to_grid_index(data["index"][order]).tolist()]


def test_statuses_have_the_values_of_ribs() -> None:
    assert {each.name: each.value for each in AddStatus} == {each.name: each.value for each in RibsStatus}


@pytest.mark.parametrize("scores", [(math.nan, 0.5), (0.5, math.nan), (math.inf, 0.5), (-math.inf, 0.5)])
def test_scores_must_be_finite_numbers(scores: Scores) -> None:
    archive = Archive(0, ((0.0, 1.0), (0.0, 1.0)), [5, 5])
    with pytest.raises(ValueError, match=r"finite|NaN"):
        archive.add(0, scores)
    assert not archive.elites()


def test_archives_do_not_import_ribs() -> None:
    code = "import sys, cycleqd_merge.evolution.archive; assert not {'ribs', 'torch'} & set(sys.modules), 'imported'"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_child_that_scores_zero_enters_an_empty_cell() -> None:
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
