"""A comparison as a section of a run's page: JSON values for its template and scripts, which only draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from cycleqd_merge.comparison.conclusions import ModelStatistics, winners
from cycleqd_merge.comparison.curves import band
from cycleqd_merge.comparison.results import ComparisonResult
from cycleqd_merge.comparison.statistics import Gap
from cycleqd_merge.comparison.table_formats import Cell, ComparisonTable
from cycleqd_merge.comparison.tables import comparison_report
from cycleqd_merge.report.paired import Interval

CURVES = ("best_mean", "hypervolume", "qd_score", "coverage")
"""The values of a `Curve` that are drawn."""


def page_section(result: ComparisonResult) -> dict[str, Any]:
    """Conclusions, warnings, tables, and the data of the charts: curves by value and strategy, the winners' scores."""
    report = comparison_report(result)
    return {
        "reference": result.reference,
        "opened": {"at": result.opened.at, "rows": result.opened.rows},
        "rows": {task: asdict(count) for task, count in result.rows.items()},
        "conclusions": list(report.conclusions),
        "warnings": list(report.warnings),
        "tables": {name: _table(report.tables[name]) for name in ("models", "strategies") if name in report.tables},
        "charts": {
            "curves": {value: _curves(result, value) for value in CURVES},
            "winners": {"axes": [*result.tasks, "mean"], "lines": _winner_lines(result, report.models)},
        },
    }


def _table(table: ComparisonTable) -> dict[str, Any]:
    """The text of each cell, whether it is the best of its column, and the value that it is sorted by."""
    return {
        "title": table.title,
        "columns": [{"heading": column.title, "text": column.is_text} for column in table.columns],
        "rows": [
            [
                {"text": text, "best": best, "value": _sort_key(value)}
                for (text, best), value in zip(cells, row, strict=True)
            ]
            for cells, row in zip(table.formatted(), table.rows, strict=True)
        ],
    }


def _sort_key(value: Cell) -> str | float | None:
    """The value that a cell is sorted by: its estimate, its difference, or the first of several scores."""
    if isinstance(value, tuple):
        return value[0] if value else None
    if isinstance(value, Interval):
        return value.estimate
    return value.difference if isinstance(value, Gap) else value


def _curves(result: ComparisonResult, value: str) -> list[dict[str, Any]]:
    """A band per strategy that has scores; `style` is the strategy's number."""
    reference = result.by_name[result.reference].strategy
    bands = {name: band([run.curve for run in runs], value) for name, runs in result.runs_by_strategy.items()}
    return [
        {"name": name, "style": style, "reference": name == reference, **asdict(line)}
        for style, (name, line) in enumerate(bands.items())
        if line is not None
    ]


def _winner_lines(result: ComparisonResult, models: Sequence[ModelStatistics]) -> list[dict[str, Any]]:
    """A line per winner; `style` is its strategy's, or its own if it has no strategy."""
    styles = {name: style for style, name in enumerate(result.runs_by_strategy)}
    lines = []
    for winner in winners(result, models):
        model, interval = winner.model, winner.over_seeds
        lines.append(
            {
                "name": model.name,
                "style": styles.setdefault(model.strategy or model.name, len(styles)),
                "reference": model.name == result.reference,
                "values": list(winner.row(result.tasks).scores),
                "interval": None if interval is None else [interval.low, interval.high],
            }
        )
    return lines
