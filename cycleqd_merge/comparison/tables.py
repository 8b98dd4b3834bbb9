"""The tables of a comparison, and what is concluded from them, for a terminal, Markdown, CSV and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text

from cycleqd_merge.comparison import sheets
from cycleqd_merge.comparison.results import Findings, Search
from cycleqd_merge.comparison.sheets import Cell, Column, Sheet
from cycleqd_merge.comparison.statistics import seeds_interval
from cycleqd_merge.comparison.verdicts import (
    Contest,
    Verdict,
    conclusions,
    contest,
    family_volumes,
    verdicts,
)
from cycleqd_merge.comparison.warnings import warnings
from cycleqd_merge.hub.markdown import cell as escaped


@dataclass(frozen=True, slots=True)
class Report:
    """All that a comparison says: a verdict per entrant, tables by the name of their file, and sentences."""

    verdicts: tuple[Verdict, ...]
    tables: dict[str, Sheet]
    contest: Contest | None
    conclusions: tuple[str, ...]
    warnings: tuple[str, ...]


def report(findings: Findings) -> Report:
    """Everything that a comparison says."""
    found = verdicts(findings)
    decided = contest(findings, found)
    tables = {
        "models": models_table(findings, found),
        "strategies": strategies_table(findings),
        "table-1": paper_table(findings, found),
        "ablations": ablation_table(findings, found),
    }
    return Report(
        tuple(found),
        {name: sheet for name, sheet in tables.items() if sheet.rows},
        decided,
        tuple(conclusions(findings, decided)),
        tuple(warnings(findings, found, decided)),
    )


def models_table(findings: Findings, found: Sequence[Verdict]) -> Sheet:
    """One row per entrant: held-out scores, their spread over seeds, the difference to the reference, what to doubt."""
    tasks = [Column(task, sheets.score, best=True) for task in findings.tasks]
    kept = [Column(f"{task} (kept)", sheets.score) for task in findings.kept]
    columns = (
        Column("model"),
        *tasks,
        Column("mean", sheets.score, best=True),
        *kept,
        Column("95% over seeds", sheets.span),
        Column("mean by seed", sheets.scores),
        Column(f"against {findings.reference}", sheets.change),
        Column("search - held-out", sheets.gap),
        Column("most truncated (%)", sheets.percent),
    )
    rows = tuple(_model_row(findings, verdict) for verdict in found)
    title = "Scores on held-out rows; differences paired by row, with 95% bootstrap intervals; gaps ± standard errors"
    return Sheet(title, columns, rows)


def _model_row(findings: Findings, verdict: Verdict) -> tuple[Cell, ...]:
    return (
        verdict.entrant.name,
        *verdict.row(findings.tasks).scores,
        *(verdict.heldout[task] for task in findings.kept),
        verdict.over_seeds,
        verdict.seeds,
        verdict.difference,
        verdict.gap,
        max(verdict.truncated.values()),
    )


def strategies_table(findings: Findings) -> Sheet:
    """One row per strategy, averaged over its seeds: what it cost and what its search came to."""
    columns = (
        Column("strategy"),
        Column("seeds", "{:d}".format),
        Column("evaluations", "{:.0f}".format),
        Column("failed", "{:.0f}".format),
        Column("censored", "{:.0f}".format),
        Column("minutes", "{:.1f}".format),
        Column("best mean (search)", sheets.score, best=True),
        Column("QD score", "{:.2f}".format, best=True),
        Column("coverage (%)", sheets.percent, best=True),
        Column("hypervolume (search)", "{:.4f}".format, best=True),
        Column("hypervolume (held-out)", "{:.4f}".format, best=True),
        Column("95% over seeds", "{0.low:.4f} to {0.high:.4f}".format),
    )
    rows = tuple(_strategy_row(name, searches) for name, searches in findings.by_strategy.items())
    return Sheet("Strategies, averaged over their seeds", columns, rows)


def _strategy_row(name: str, searches: Sequence[Search]) -> tuple[Cell, ...]:
    costs = ("evaluations", "failures", "censored")
    reached = ("best_mean", "qd_score", "coverage", "hypervolume")
    volumes = family_volumes(searches)
    return (
        name,
        len(searches),
        *(float(np.mean([getattr(search, cost) for search in searches])) for cost in costs),
        float(np.mean([search.seconds for search in searches])) / 60,
        *(_mean_last([getattr(search.curve, value) for search in searches]) for value in reached),
        float(np.mean(volumes)),
        seeds_interval(volumes),
    )


def _mean_last(curves: Sequence[Sequence[float]]) -> float:
    """The mean of the curves' ends; a search that was told no scores counts as 0."""
    return float(np.mean([values[-1] if values else 0.0 for values in curves]))


def paper_table(findings: Findings, found: Sequence[Verdict]) -> Sheet:
    """The layout of Table 1 of the paper: models in sections, percent by task and on average."""
    parts = {
        "Base model": [verdict for verdict in found if verdict.entrant.kind == "base"],
        "Fine-tuned": [verdict for verdict in found if verdict.entrant.kind == "expert"],
        "Merged": [verdict for verdict in found if verdict.entrant.kind == "merge"],
        "Searched": [verdict for verdict in found if verdict.entrant.kind in ("elite", "aggregate")],
    }
    ordered = [verdict for part in parts.values() for verdict in part]
    starts = {ordered.index(part[0]): name for name, part in parts.items() if part}
    return _paper_layout("Held-out scores (%), averaged over seeds", "model", findings, ordered, starts)


def ablation_table(findings: Findings, found: Sequence[Verdict]) -> Sheet:
    """The layout of the paper's ablation table: the best elite of each strategy, percent by task and on average."""
    best: dict[str, Verdict] = {}
    for verdict in found:
        entrant = verdict.entrant
        if entrant.kind == "elite" and entrant.strategy is not None:
            best.setdefault(entrant.strategy, verdict)
    title = "Held-out scores (%) of each strategy's best-mean model, averaged over seeds"
    return _paper_layout(title, "strategy", findings, list(best.values()), {})


def _paper_layout(
    title: str, name: str, findings: Findings, ordered: Sequence[Verdict], sections: dict[int, str]
) -> Sheet:
    scores = [Column(heading, sheets.percent, best=True) for heading in (*findings.tasks, "average")]
    rows: list[tuple[Cell, ...]] = []
    for number, verdict in enumerate(ordered):
        called = verdict.entrant.strategy if name == "strategy" else verdict.entrant.name
        rows.append((number, called, *verdict.row(findings.tasks).scores))
    return Sheet(title, (Column("#", "{:d}".format), Column(name), *scores), tuple(rows), sections)


def terminal(said: Report) -> RenderableType:
    """What a terminal shows: models, strategies, conclusions and warnings."""
    tables = [sheets.Terminal(said.tables[name]) for name in ("models", "strategies") if name in said.tables]
    lines = [Text(line, style="bold") for line in said.conclusions]
    return Group(*tables, *lines, *(Text(f"! {line}", style="yellow") for line in said.warnings))


def markdown(said: Report) -> str:
    """All tables, conclusions and warnings as Markdown."""
    parts = [*(sheets.markdown(sheet) for sheet in said.tables.values())]
    if said.conclusions:
        parts.append("\n".join(f"- {escaped(line)}" for line in said.conclusions) + "\n")
    if said.warnings:
        parts.append("**Warnings**\n\n" + "\n".join(f"- {escaped(line)}" for line in said.warnings) + "\n")
    return "\n".join(parts)


def csv_files(said: Report) -> dict[str, str]:
    """Each table as the text of a CSV file, by the name of the table."""
    return {name: sheets.csv_text(sheet) for name, sheet in said.tables.items()}


def to_json(said: Report) -> dict[str, Any]:
    """Tables, contest, conclusions and warnings as JSON values."""
    return {
        "tables": {name: sheets.records(sheet) for name, sheet in said.tables.items()},
        "contest": None if said.contest is None else asdict(said.contest),
        "conclusions": list(said.conclusions),
        "warnings": list(said.warnings),
    }
