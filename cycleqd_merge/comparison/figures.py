"""Figures of a comparison: progress of the strategies, their archives, the winners task by task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cycleqd_merge.comparison.curves import band
from cycleqd_merge.comparison.results import Findings, Search
from cycleqd_merge.comparison.verdicts import Verdict
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


def curves_figure(findings: Findings) -> Figure:
    """Best mean, hypervolume, QD score and coverage over evaluations: a line per strategy, the mean over its seeds,
    in a band from the lowest seed to the highest."""
    figure = Figure(figsize=(11, 7.2), layout="constrained")
    axes = figure.subplots(2, 2).flat
    for axis, (value, label) in zip(axes, _PANELS, strict=True):
        for place, (name, searches) in enumerate(findings.by_strategy.items()):
            _draw_curve(axis, searches, value, name, place)
        axis.set_xlabel("evaluations")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(5, max(1, len(labels))), fontsize=9)
    return figure


def _draw_curve(axis: Axes, searches: Sequence[Search], value: str, name: str, place: int) -> None:
    found = band([search.curve for search in searches], value)
    if found is None:
        return
    style = {"color": _COLOURS[place % len(_COLOURS)], "linestyle": _LINES[place // len(_COLOURS) % len(_LINES)]}
    axis.plot(found.evaluations, found.mean, label=name, **style)
    axis.fill_between(found.evaluations, found.low, found.high, color=style["color"], alpha=0.15, lw=0)


def families_figure(archives: Mapping[str, Sequence[Archive]], tasks: Sequence[str]) -> Figure:
    """The archives of several strategies, in one row (of figures) each, to be compared by eye; bounds and bins must be
    the same for all, as `curves.filled_archives` gives them."""
    width, height = archives_size(len(tasks))
    figure = Figure(figsize=(width, (height + 0.4) * len(archives)), layout="constrained")
    parts = figure.subfigures(len(archives), 1, squeeze=False)[:, 0]
    for part, (strategy, kept) in zip(parts, archives.items(), strict=True):
        part.suptitle(strategy, fontweight="bold")
        draw_archives(part, kept, tasks, {})
    return figure


def winners(findings: Findings, found: Sequence[Verdict]) -> list[Verdict]:
    """Base, the best expert, the best merge and each strategy's best model, by their held-out means from the highest.

    The reference stands for its strategy, even if another model of it is better.
    """
    first = [verdict for verdict in found if verdict.entrant.name == findings.reference]
    best: dict[tuple[str, str | None], Verdict] = {}
    for verdict in (*first, *sorted(found, key=lambda verdict: -verdict.mean)):
        searched = verdict.entrant.kind in ("elite", "aggregate")
        best.setdefault(("search", verdict.entrant.strategy) if searched else (verdict.entrant.kind, None), verdict)
    return sorted(best.values(), key=lambda verdict: -verdict.mean)


def winners_figure(findings: Findings, found: Sequence[Verdict]) -> Figure:
    """Held-out scores of the winners in parallel coordinates: tasks and their mean side by side, a line per model.

    The reference is drawn thick. Bars at the mean are 95% intervals over seeds.
    """
    shown = winners(findings, found)
    figure = Figure(figsize=(max(6.4, 1.7 * (len(findings.tasks) + 3)), 4.6), layout="constrained")
    axis = figure.subplots()
    for place, verdict in enumerate(shown):
        _draw_winner(axis, findings, verdict, place, len(shown))
    labels = [*findings.tasks, "mean"]
    axis.set_xticks(range(len(labels)), labels)
    axis.set_xlim(-0.15, len(labels) - 0.7)
    axis.set_ylim(bottom=0.0)
    axis.set_ylabel("held-out score")
    axis.grid(axis="y", alpha=0.3)
    for position in range(len(labels)):
        axis.axvline(position, color="0.8", zorder=0)
    figure.legend(loc="outside right upper", fontsize=9, title="held-out mean; bars: 95% over seeds", title_fontsize=9)
    return figure


def _draw_winner(axis: Axes, findings: Findings, verdict: Verdict, place: int, shown: int) -> None:
    is_reference = verdict.entrant.name == findings.reference
    colour = _COLOURS[place % len(_COLOURS)]
    last = len(findings.tasks)
    axis.plot(
        range(last + 1),
        [score for score in verdict.row(findings.tasks).scores if score is not None],
        color=colour,
        linestyle=_LINES[place // len(_COLOURS) % len(_LINES)],
        marker=_MARKERS[place % len(_MARKERS)],
        markersize=5,
        linewidth=3.0 if is_reference else 1.4,
        zorder=4 if is_reference else 3,
        label=f"{verdict.entrant.name}  {verdict.mean:.3f}",
    )
    if verdict.over_seeds is not None:
        beside = last + 0.05 + 0.2 * (place + 1) / (shown + 1)  # so that bars do not lie on one another
        interval = verdict.over_seeds
        axis.plot([beside, beside], [interval.low, interval.high], color=colour, linewidth=2.2, zorder=3)
