"""The figures of the example: their lines, and that every part can be drawn and saved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cycleqd_merge.comparison.conclusions import model_statistics, winners
from cycleqd_merge.comparison.curves import Curve, filled_archives
from cycleqd_merge.comparison.figures import curves_figure, strategy_archives_figure, winners_figure
from cycleqd_merge.report.figures import save
from tests.comparison.examples import BOUNDS, TASKS, example


def drawn(figure: Figure, folder: Path) -> Figure:
    """The figure, once saved in both forms."""
    for path in save(figure, folder, "figure"):
        assert path.stat().st_size > 5000
    return figure


def line(axis: Axes, label: str) -> tuple[list[float], list[float]]:
    found = next(each for each in axis.get_lines() if each.get_label() == label)
    return list(found.get_xdata()), list(found.get_ydata())


def test_curves_are_means_over_what_all_seeds_reached(tmp_path: Path) -> None:
    axis = drawn(curves_figure(example()), tmp_path).axes[0]
    # seed 0 had its first scores at 2 and seed 1 at 1; both ended at 4
    assert line(axis, "cma-es") == ([2, 3, 4], pytest.approx([(0.2 + 0.2) / 2, (0.3 + 0.25) / 2, (0.3 + 0.45) / 2]))
    evaluations, values = line(axis, "cycleqd")
    assert (evaluations[0], evaluations[-1]) == (1, 4)  # the other seed's fifth evaluation is not shown
    assert values[0] == pytest.approx((0.15 + 0.2) / 2)


def test_a_strategy_without_scores_does_not_stop_the_figure(tmp_path: Path) -> None:
    runs = example().runs_by_strategy
    silent = [replace(run, curve=Curve((), (), (), (), ())) for run in runs["cma-es"]]
    kept = (*silent, *runs["cycleqd"])
    axis = drawn(curves_figure(example(runs=kept)), tmp_path).axes[0]
    assert [each.get_label() for each in axis.get_lines()] == ["cycleqd"]


def test_a_seed_that_ended_before_another_began_is_shown_as_a_point(tmp_path: Path) -> None:
    early, late = example().runs_by_strategy["cma-es"]
    late = replace(late, curve=Curve((9,), (0.7,), (0.1,), (0.1,), (0.1,)))
    axis = drawn(curves_figure(example(runs=(early, late))), tmp_path).axes[0]
    assert line(axis, "cma-es") == ([4], pytest.approx([(0.3 + 0.7) / 2]))


def test_winners_are_the_best_of_their_kind_and_the_reference_represents_its_strategy(tmp_path: Path) -> None:
    result = example()
    models = model_statistics(result)
    names = [each.model.name for each in winners(result, models)]
    assert names == ["cycleqd best-mean", "cma-es best-mean", "ties (best of 6)", "expert:sql", "base"]
    axis = drawn(winners_figure(result, models), tmp_path).axes[0]
    assert line(axis, "expert:sql  0.250") == ([0, 1, 2], pytest.approx([0.4, 0.1, 0.25]))
    assert [label.get_text() for label in axis.get_xticklabels()] == [*TASKS, "mean"]


@pytest.mark.parametrize("tasks", [2, 3, 4])
def test_archives_are_drawn_one_strategy_below_the_other(tasks: int, tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    archives = {
        name: filled_archives([tuple(row) for row in draws.random((20, tasks))], (BOUNDS[0],) * tasks, [4] * tasks)
        for name in ("cycleqd", "nsga2")
    }
    figure = drawn(strategy_archives_figure(archives, [f"task {number}" for number in range(tasks)]), tmp_path)
    upper, lower = figure.subfigs
    assert (upper.get_suptitle(), lower.get_suptitle()) == ("cycleqd", "nsga2")
    for part, kept in ((upper, archives["cycleqd"]), (lower, archives["nsga2"])):
        titles = [axis.get_title() for axis in part.axes if axis.get_title()]
        for archive in kept:
            expected = f"Archive task {archive.task}: {archive.coverage:.0%} covered, QD {archive.qd_score:.2f}"
            assert titles.count(expected) == (1 if tasks < 4 else 3)
