"""A comparison as a section of a run's page: JSON values for its template, and for its scripts, which only draw."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from cycleqd_merge.comparison import sheets
from cycleqd_merge.comparison.curves import band
from cycleqd_merge.comparison.figures import winners
from cycleqd_merge.comparison.results import Findings
from cycleqd_merge.comparison.tables import report
from cycleqd_merge.comparison.verdicts import Verdict, verdicts

CURVES = ("best_mean", "hypervolume", "qd_score", "coverage")
"""The values of a `Curve` that are drawn."""


def page_section(findings: Findings) -> dict[str, Any]:
    """Conclusions, warnings, tables, and what is drawn: curves by value and strategy, the winners' scores."""
    said = report(findings)
    return {
        "reference": findings.reference,
        "opened": findings.opened.at,
        "rows": {task: asdict(count) for task, count in findings.rows.items()},
        "conclusions": list(said.conclusions),
        "warnings": list(said.warnings),
        "tables": {
            name: sheets.page_values(said.tables[name]) for name in ("models", "strategies") if name in said.tables
        },
        "charts": {
            "curves": {value: _curves(findings, value) for value in CURVES},
            "winners": {
                "axes": [*findings.tasks, "mean"],
                "lines": [_winner(findings, verdict) for verdict in winners(findings, verdicts(findings))],
            },
        },
    }


def _curves(findings: Findings, value: str) -> list[dict[str, Any]]:
    """A band per strategy that was told scores."""
    own = findings.by_name[findings.reference].strategy
    bands = {
        name: band([search.curve for search in searches], value) for name, searches in findings.by_strategy.items()
    }
    return [{"name": name, "reference": name == own, **asdict(found)} for name, found in bands.items() if found is not None]


def _winner(findings: Findings, verdict: Verdict) -> dict[str, Any]:
    spread = verdict.over_seeds
    return {
        "name": verdict.entrant.name,
        "reference": verdict.entrant.name == findings.reference,
        "values": [*(verdict.heldout[task] for task in findings.tasks), verdict.mean],
        "interval": None if spread is None else [spread.low, spread.high],
    }
