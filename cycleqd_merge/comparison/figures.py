"""Figures of a comparison: the progress of the strategies, their archives, the winners task by task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cycleqd_merge.comparison.conclusions import ModelStatistics, winners
from cycleqd_merge.comparison.curves import band
from cycleqd_merge.comparison.results import ComparisonResult, StrategyRunResult
from cycleqd_merge.evolution.archive import Archive
from cycleqd_merge.report.figures import archives_size, draw_archives

_PANELS = (
    ("best_mean", "best mean (search score)"),
    ("hypervolume", "hypervolume (search scores)"),
    ("qd_score", "QD score (sum over archives)"),
    ("coverage", "coverage (share, mean over archives)"),
)
_COLOURS = matplotlib.colormaps["tab10"].colors  # type: ignore[attr-defined]
_LINES = ("-", "--", ":", "-.")
_MARKERS = "osD^vPX*"


def curves_figure(result: ComparisonResult) -> Figure:
    """Best mean, hypervolume, QD score and coverage over evaluations: a line per strategy, the mean over its seeds,
    with a band from the lowest seed to the highest."""
    figure = Figure(figsize=(11, 7.2), layout="constrained")
    axes = figure.subplots(2, 2).flat
    for axis, (value, label) in zip(axes, _PANELS, strict=True):
        for place, (strategy, runs) in enumerate(result.runs_by_strategy.items()):
            _draw_curve(axis, runs, value, strategy, place)
        axis.set_xlabel("evaluations")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(5, max(1, len(labels))), fontsize=9)
    return figure


def _draw_curve(axis: Axes, runs: Sequence[StrategyRunResult], value: str, strategy: str, place: int) -> None:
    line = band([run.curve for run in runs], value)
    if line is None:
        return
    style = {"color": _COLOURS[place % len(_COLOURS)], "linestyle": _LINES[place // len(_COLOURS) % len(_LINES)]}
    axis.plot(line.evaluations, line.mean, label=strategy, **style)
    axis.fill_between(line.evaluations, line.low, line.high, color=style["color"], alpha=0.15, lw=0)


def strategy_archives_figure(archives: Mapping[str, Sequence[Archive]], tasks: Sequence[str]) -> Figure:
    """The archives of several strategies, one subfigure per strategy, below each other.

    Their bounds and bins must be the same, as `curves.filled_archives` gives them.
    """
    width, height = archives_size(len(tasks))
    figure = Figure(figsize=(width, (height + 0.4) * len(archives)), layout="constrained")
    parts = figure.subfigures(len(archives), 1, squeeze=False)[:, 0]
    for part, (strategy, kept) in zip(parts, archives.items(), strict=True):
        part.suptitle(strategy, fontweight="bold")
        draw_archives(part, kept, tasks, {})
    return figure


def winners_figure(result: ComparisonResult, models: Sequence[ModelStatistics]) -> Figure:
    """Held-out scores of the winners in parallel coordinates: an axis per task and for the mean, a line per model.

    The reference has a thick line. Bars at the mean are 95% intervals over seeds.
    """
    shown = winners(result, models)
    figure = Figure(figsize=(max(6.4, 1.7 * (len(result.tasks) + 3)), 4.6), layout="constrained")
    axis = figure.subplots()
    for place, winner in enumerate(shown):
        _draw_winner(axis, result, winner, place, len(shown))
    labels = [*result.tasks, "mean"]
    axis.set_xticks(range(len(labels)), labels)
    axis.set_xlim(-0.15, len(labels) - 0.7)
    axis.set_ylim(bottom=0.0)
    axis.set_ylabel("held-out score")
    axis.grid(axis="y", alpha=0.3)
    for position in range(len(labels)):
        axis.axvline(position, color="0.8", zorder=0)
    figure.legend(loc="outside right upper", fontsize=9, title="held-out mean; bars: 95% over seeds", title_fontsize=9)
    return figure


def _draw_winner(axis: Axes, result: ComparisonResult, winner: ModelStatistics, place: int, shown: int) -> None:
    is_reference = winner.model.name == result.reference
    colour = _COLOURS[place % len(_COLOURS)]
    last = len(result.tasks)
    axis.plot(
        range(last + 1),
        [score for score in winner.row(result.tasks).scores if score is not None],
        color=colour,
        linestyle=_LINES[place // len(_COLOURS) % len(_LINES)],
        marker=_MARKERS[place % len(_MARKERS)],
        markersize=5,
        linewidth=3.0 if is_reference else 1.4,
        zorder=4 if is_reference else 3,
        label=f"{winner.model.name}  {winner.mean:.3f}",
    )
    if winner.over_seeds is not None:
        x = last + 0.05 + 0.2 * (place + 1) / (shown + 1)  # so that bars do not overlap
        interval = winner.over_seeds
        axis.plot([x, x], [interval.low, interval.high], color=colour, linewidth=2.2, zorder=3)
