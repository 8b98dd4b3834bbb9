"""Figures of a run: archives as heatmaps, progress over generations, the ancestors of an elite."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, FigureBase

from cycleqd_merge.errors import RecipeError
from cycleqd_merge.evolution.archive import Archive
from cycleqd_merge.files import new_file
from cycleqd_merge.report.summary import lineage_rows

matplotlib.rcParams["svg.hashsalt"] = "cycleqd-merge"  # the same run gives the same file
_COLOURS = matplotlib.colormaps["viridis"]
_EMPTY = "#ededed"


def archives_figure(
    archives: Sequence[Archive], tasks: Sequence[str], marked: Mapping[int, str] | None = None
) -> Figure:
    """One row per archive: quality as colour over the scores of the other tasks.

    Two tasks give a strip per archive, three a heatmap, four a heatmap per pair of other tasks, which shows the best
    quality over the remaining ones. With more tasks, each other task is in one pair, or the first in two.

    marked: labels of elites to mark, by evaluation number.
    """
    figure = Figure(figsize=archives_size(len(tasks)), layout="constrained")
    draw_archives(figure, archives, tasks, marked or {})
    return figure


def archives_size(tasks: int) -> tuple[float, float]:
    """Width and height of the drawing of `draw_archives`, in inches."""
    rows, columns = _archives_grid(tasks)
    return 4.4 * columns, (2.4 if tasks == 2 else 3.7) * rows


def draw_archives(
    figure: FigureBase, archives: Sequence[Archive], tasks: Sequence[str], marked: Mapping[int, str]
) -> None:
    """Draw the content of `archives_figure` into a figure or a part of one."""
    grid = figure.subplots(*_archives_grid(len(tasks)), squeeze=False)
    for number, archive in enumerate(archives):
        axes = [grid[0][number]] if len(grid) == 1 else list(grid[number])
        _draw_archive(archive, axes, tasks, marked)


def _archives_grid(tasks: int) -> tuple[int, int]:
    """Rows and columns of heatmaps: archives side by side, or one below another where each has several."""
    shown = len(_shown_axes(tasks - 1))
    return (1, tasks) if shown == 1 else (tasks, shown)


def _shown_axes(others: int) -> list[tuple[int, ...]]:
    """The axes of each heatmap of an archive with this number of other tasks."""
    if others == 1:
        return [(0,)]
    if others <= 3:
        return list(combinations(range(others), 2))
    return [(first, (first + 1) % others) for first in range(0, others, 2)]


def _draw_archive(archive: Archive, axes: Sequence[Axes], tasks: Sequence[str], marked: Mapping[int, str]) -> None:
    low, high = archive.bounds[archive.task]
    scale = Normalize(max(low, 0.0), min(high, 1.0))
    for axis, shown in zip(axes, _shown_axes(len(archive.others)), strict=True):
        _draw_heatmap(axis, archive, shown, scale)
        _label(axis, archive, shown, tasks)
        _mark(axis, archive, shown, marked)
    axes[-1].figure.colorbar(ScalarMappable(scale, _COLOURS), ax=list(axes), label=f"{tasks[archive.task]} (score)")


def _draw_heatmap(axis: Axes, archive: Archive, shown: tuple[int, ...], scale: Normalize) -> None:
    values = archive.heatmap(shown)
    edges = [np.linspace(*archive.bounds[archive.others[d]], archive.shape[d] + 1) for d in shown]
    if len(shown) == 1:
        edges.append(np.array([0.0, 1.0]))
        values = values[:, None]
        axis.set_yticks([])
    axis.set_facecolor(_EMPTY)
    axis.pcolormesh(edges[0], edges[1], values.T, cmap=_COLOURS, norm=scale, edgecolors="white", linewidth=0.4)


def _label(axis: Axes, archive: Archive, shown: tuple[int, ...], tasks: Sequence[str]) -> None:
    axis.set_title(
        f"Archive {tasks[archive.task]}: {archive.coverage:.0%} covered, QD {archive.qd_score:.2f}", fontsize=10
    )
    axis.set_xlabel(f"{tasks[archive.others[shown[0]]]} (score)")
    if len(shown) > 1:
        axis.set_ylabel(f"{tasks[archive.others[shown[1]]]} (score)")


def _mark(axis: Axes, archive: Archive, shown: tuple[int, ...], marked: Mapping[int, str]) -> None:
    for elite in archive.elites():
        if elite.number in marked:
            centres = []
            for dimension in shown:
                low, high = archive.bounds[archive.others[dimension]]
                centres.append(low + (elite.cell[dimension] + 0.5) * (high - low) / archive.shape[dimension])
            x, y = (*centres, 0.5)[:2]
            axis.plot(x, y, marker="*", markersize=13, color="crimson", markeredgecolor="white")
            axis.annotate(marked[elite.number], (x, y), textcoords="offset points", xytext=(6, 6), fontsize=8)


def progress_figure(history: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> Figure:
    """Best quality, QD score and coverage per archive over generations.

    history: one entry per generation with `generation`, and `best`, `qd_score`, `coverage` per archive.
    """
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    generations = [entry["generation"] for entry in history]
    panels = (
        ("best", "best quality (score)"),
        ("qd_score", "QD score (sum of qualities)"),
        ("coverage", "coverage (share)"),
    )
    for axis, (key, label) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for number, task in enumerate(tasks):
            axis.plot(generations, [entry[key][number] for entry in history], label=task)
        axis.set_xlabel("generation")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    return figure


def lineage_figure(line: Sequence[Mapping[str, Any]], tasks: Sequence[str], experts: Sequence[str]) -> Figure:
    """The ancestors of one evaluation: time runs to the right, arrows from parents to children.

    line: from `report.summary.lineage`, the evaluation itself first.
    """
    numbers = sorted(entry["evaluation"] for entry in line)
    column = {number: place for place, number in enumerate(numbers)}
    row = lineage_rows(line)
    figure = Figure(figsize=(max(6.0, 0.75 * len(numbers)), 4.2), layout="constrained")
    axis = figure.subplots()
    for entry in line:
        number = entry["evaluation"]
        for parent in entry["step"].get("parents", []):
            if parent in column:
                tip, end = (column[number], row[number]), (column[parent], row[parent])
                style = {"arrowstyle": "->", "color": "0.6", "shrinkA": 9, "shrinkB": 9}
                axis.annotate("", tip, end, arrowprops=style)
    means = [float(np.mean((entry["scores"] or [np.nan])[: len(tasks)])) for entry in line]  # failed: none
    places = [(column[entry["evaluation"]], row[entry["evaluation"]]) for entry in line]
    x, y = zip(*places, strict=True)
    colours = _COLOURS.with_extremes(bad=_EMPTY)
    points = axis.scatter(x, y, 190, means, cmap=colours, plotnonfinite=True, zorder=3, edgecolors="white")
    for entry, place in zip(line, places, strict=True):
        number = entry["evaluation"]
        label = experts[number] if number < len(experts) else f"#{number}"
        axis.annotate(label, place, textcoords="offset points", xytext=(0, 11), ha="center", fontsize=8)
    axis.set_title(f"Ancestors of #{line[0]['evaluation']}", fontsize=10)
    axis.set_xlabel("evaluations in chronological order")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.margins(0.08, 0.25)
    figure.colorbar(points, ax=axis, label="mean score over tasks")
    return figure


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file (150 dpi); the same figure gives the same bytes."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    return content.getvalue()


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write a figure as PNG (150 dpi) and SVG; returns the paths.

    Raises:
        RecipeError: the folder cannot be written.
        InfrastructureError: the disk is full.
    """
    paths = [folder / f"{name}.png", folder / f"{name}.svg"]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in paths:
            kind = path.suffix.removeprefix(".")
            with new_file(path) as unfinished:
                metadata = {"Date": None} if kind == "svg" else None
                figure.savefig(unfinished, format=kind, dpi=150, metadata=metadata)
    except OSError as error:
        raise RecipeError(f"{folder}: cannot be written: {error.strerror}; choose a different folder") from error
    return paths
