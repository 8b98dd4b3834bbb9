"""A comparison as a section of a run's page: JSON values for its template, and for its scripts, which only draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from cycleqd_merge.comparison.curves import band
from cycleqd_merge.comparison.figures import winners
from cycleqd_merge.comparison.results import Findings
from cycleqd_merge.comparison.sheets import Cell, Sheet
from cycleqd_merge.comparison.statistics import Gap, Interval
from cycleqd_merge.comparison.tables import report
from cycleqd_merge.comparison.verdicts import Verdict

CURVES = ("best_mean", "hypervolume", "qd_score", "coverage")
"""The values of a `Curve` that are drawn."""


def page_section(findings: Findings) -> dict[str, Any]:
    """Conclusions, warnings, tables, and what is drawn: curves by value and strategy, the winners' scores."""
    said = report(findings)
    return {
        "reference": findings.reference,
        "opened": {"at": findings.opened.at, "rows": findings.opened.rows},
        "rows": {task: asdict(count) for task, count in findings.rows.items()},
        "conclusions": list(said.conclusions),
        "warnings": list(said.warnings),
        "tables": {name: _table(said.tables[name]) for name in ("models", "strategies") if name in said.tables},
        "charts": {
            "curves": {value: _curves(findings, value) for value in CURVES},
            "winners": {"axes": [*findings.tasks, "mean"], "lines": _winners(findings, said.verdicts)},
        },
    }


def _table(sheet: Sheet) -> dict[str, Any]:
    """Of each cell its text, whether it is the best of its column, and what it is sorted by."""
    return {
        "title": sheet.title,
        "columns": [{"heading": column.heading, "text": column.is_text} for column in sheet.columns],
        "rows": [
            [{"text": text, "best": best, "value": _key(value)} for (text, best), value in zip(cells, row, strict=True)]
            for cells, row in zip(sheet.written(), sheet.rows, strict=True)
        ],
    }


def _key(value: Cell) -> str | float | None:
    """What a cell is sorted by: its estimate, its difference, or the first of several scores."""
    if isinstance(value, tuple):
        return value[0] if value else None
    if isinstance(value, Interval):
        return value.estimate
    return value.difference if isinstance(value, Gap) else value


def _curves(findings: Findings, value: str) -> list[dict[str, Any]]:
    """A band per strategy that was told scores; `style` is the strategy's number."""
    own = findings.by_name[findings.reference].strategy
    bands = {
        name: band([search.curve for search in searches], value) for name, searches in findings.by_strategy.items()
    }
    return [
        {"name": name, "style": style, "reference": name == own, **asdict(found)}
        for style, (name, found) in enumerate(bands.items())
        if found is not None
    ]


def _winners(findings: Findings, found: Sequence[Verdict]) -> list[dict[str, Any]]:
    """A line per winner; it has its strategy's `style`, or one of its own."""
    styles = {name: style for style, name in enumerate(findings.by_strategy)}
    lines = []
    for verdict in winners(findings, found):
        entrant, spread = verdict.entrant, verdict.over_seeds
        lines.append(
            {
                "name": entrant.name,
                "style": styles.setdefault(entrant.strategy or entrant.name, len(styles)),
                "reference": entrant.name == findings.reference,
                "values": list(verdict.row(findings.tasks).scores),
                "interval": None if spread is None else [spread.low, spread.high],
            }
        )
    return lines
