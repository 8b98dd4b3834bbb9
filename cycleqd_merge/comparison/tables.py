"""The report of a comparison: tables, conclusions and warnings, for a terminal, Markdown, CSV and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text

from cycleqd_merge.comparison import table_formats
from cycleqd_merge.comparison.comparison_warnings import comparison_warnings, many_comparisons
from cycleqd_merge.comparison.conclusions import (
    HeadToHead,
    ModelStatistics,
    conclusions,
    elite_set_volumes,
    head_to_head,
    model_statistics,
)
from cycleqd_merge.comparison.results import ComparedModel, ComparisonResult, StrategyRunResult
from cycleqd_merge.comparison.statistics import seeds_interval
from cycleqd_merge.comparison.table_formats import Cell, Column, ComparisonTable
from cycleqd_merge.hub.markdown import cell as escaped


@dataclass(frozen=True, slots=True)
class ComparisonReport:
    """The statistics of each model, the tables by the name of their file, and sentences."""

    models: tuple[ModelStatistics, ...]
    tables: dict[str, ComparisonTable]
    best: HeadToHead | None
    conclusions: tuple[str, ...]
    warnings: tuple[str, ...]


def comparison_report(result: ComparisonResult) -> ComparisonReport:
    """The report of a comparison; tables without rows are left out."""
    models = model_statistics(result)
    best = head_to_head(result, models)
    tables = {
        "models": models_table(result, models),
        "strategies": strategies_table(result),
        "table-1": paper_table(result, models),
        "ablations": ablation_table(result, models),
    }
    return ComparisonReport(
        tuple(models),
        {name: table for name, table in tables.items() if table.rows},
        best,
        tuple(conclusions(result, best)),
        (*comparison_warnings(result, models, best), *many_comparisons(result)),
    )


def models_table(result: ComparisonResult, models: Sequence[ModelStatistics]) -> ComparisonTable:
    """One row per model: held-out scores, their spread over seeds, the difference from the reference, the gap.

    The difference has an interval over rows, and one over rows and seeds if any strategy has several seeds.
    """
    against, both = f"against {result.reference}", any(each.over_rows_and_seeds for each in models)
    tasks = [Column(task, table_formats.score, best=True) for task in result.tasks]
    kept = [Column(f"{task} (kept)", table_formats.score) for task in result.kept]
    columns = (
        Column("model"),
        *tasks,
        Column("mean", table_formats.score, best=True),
        *kept,
        Column("95% over seeds", table_formats.span),
        Column("mean by seed", table_formats.scores),
        Column(against, table_formats.change, note="95% over rows"),
        *([Column(f"{against} over rows and seeds", table_formats.change, note="95%")] if both else []),
        Column("search - held-out", table_formats.gap),
        Column("most truncated (%)", table_formats.percent),
    )
    rows = tuple(_model_row(result, each, both) for each in models)
    title = "Held-out scores; differences are paired by row; a gap's ± is its standard error over rows"
    return ComparisonTable(title, columns, rows)


def _model_row(result: ComparisonResult, statistics: ModelStatistics, both: bool) -> tuple[Cell, ...]:
    return (
        statistics.model.name,
        *statistics.row(result.tasks).scores,
        *(statistics.heldout[task] for task in result.kept),
        statistics.over_seeds,
        statistics.mean_by_seed,
        statistics.difference,
        *([statistics.over_rows_and_seeds] if both else []),
        statistics.gap,
        max(statistics.truncated.values()),
    )


def strategies_table(result: ComparisonResult) -> ComparisonTable:
    """One row per strategy, averaged over its seeds: its cost and the quality of its runs, if it has any."""
    fitted = any(run.fit_seconds for run in result.runs)
    columns = (
        Column("strategy"),
        Column("seeds", "{:d}".format),
        Column("evaluations", "{:.0f}".format),
        Column("failed", "{:.0f}".format),
        Column("censored", "{:.0f}".format),
        Column("minutes", "{:.1f}".format),
        *([Column("minutes of fits", "{:.1f}".format)] if fitted else []),
        Column("best mean (search)", table_formats.score, best=True),
        Column("QD score", "{:.2f}".format, best=True),
        Column("coverage (%)", table_formats.percent, best=True),
        Column("hypervolume (search)", "{:.4f}".format, best=True),
        Column("hypervolume (held-out)", "{:.4f}".format, best=True),
        Column("95% over seeds", "{0.low:.4f} to {0.high:.4f}".format),
    )
    searched = [_strategy_row(name, runs, fitted) for name, runs in result.runs_by_strategy.items()]
    learned = [_learned_row(model, len(columns)) for model in result.models if model.by_seed[0].seconds]
    title = "Strategies, averaged over seeds; a best mean (search) is optimistic: it was used to choose its model"
    return ComparisonTable(title, columns, (*searched, *learned))


def _learned_row(model: ComparedModel, width: int) -> tuple[Cell, ...]:
    """The cost of a strategy without a run, which has one model per seed."""
    minutes = float(np.mean([scores.seconds for scores in model.by_seed])) / 60
    row = (model.strategy, len(model.by_seed), None, None, None, minutes)
    return (*row, *[None] * (width - len(row)))


def _strategy_row(name: str, runs: Sequence[StrategyRunResult], fitted: bool) -> tuple[Cell, ...]:
    costs = ("evaluations", "failures", "censored")
    reached = ("best_mean", "qd_score", "coverage", "hypervolume")
    volumes = elite_set_volumes(runs)
    return (
        name,
        len(runs),
        *(float(np.mean([getattr(run, cost) for run in runs])) for cost in costs),
        float(np.mean([run.seconds for run in runs])) / 60,
        *([float(np.mean([run.fit_seconds for run in runs])) / 60] if fitted else []),
        *(_mean_last([getattr(run.curve, value) for run in runs]) for value in reached),
        float(np.mean(volumes)),
        seeds_interval(volumes),
    )


def _mean_last(curves: Sequence[Sequence[float]]) -> float:
    """The mean of the curves' last values; a run without scores counts as 0."""
    return float(np.mean([values[-1] if values else 0.0 for values in curves]))


def paper_table(result: ComparisonResult, models: Sequence[ModelStatistics]) -> ComparisonTable:
    """The layout of Table 1 of the paper: models in sections, percent by task and on average."""
    parts = {
        "Base model": [each for each in models if each.model.kind == "base"],
        "Fine-tuned": [each for each in models if each.model.kind in ("expert", "fine-tuned")],
        "Merged": [each for each in models if each.model.kind == "merge"],
        "Searched": [each for each in models if each.model.kind in ("elite", "aggregate")],
    }
    ordered = [each for part in parts.values() for each in part]
    starts = {ordered.index(part[0]): name for name, part in parts.items() if part}
    return _paper_layout("Held-out scores (%), averaged over seeds", "model", result, ordered, starts)


def ablation_table(result: ComparisonResult, models: Sequence[ModelStatistics]) -> ComparisonTable:
    """The layout of the paper's ablation table: the best elite of each strategy, percent by task and on average."""
    best: dict[str, ModelStatistics] = {}
    for each in models:
        if each.model.kind == "elite" and each.model.strategy is not None:
            best.setdefault(each.model.strategy, each)
    title = "Held-out scores (%) of each strategy's best-mean elite, averaged over seeds"
    return _paper_layout(title, "strategy", result, list(best.values()), {})


def _paper_layout(
    title: str, name: str, result: ComparisonResult, ordered: Sequence[ModelStatistics], sections: dict[int, str]
) -> ComparisonTable:
    scores = [Column(heading, table_formats.percent, best=True) for heading in (*result.tasks, "average")]
    rows: list[tuple[Cell, ...]] = []
    for number, each in enumerate(ordered):
        label = each.model.strategy if name == "strategy" else each.model.name
        rows.append((number, label, *each.row(result.tasks).scores))
    return ComparisonTable(title, (Column("#", "{:d}".format), Column(name), *scores), tuple(rows), sections)


def report_to_terminal(report: ComparisonReport) -> RenderableType:
    """The tables of models and strategies, conclusions and warnings."""
    names = [name for name in ("models", "strategies") if name in report.tables]
    tables = [table_formats.TerminalTable(report.tables[name]) for name in names]
    lines = [Text(line, style="bold") for line in report.conclusions]
    return Group(*tables, *lines, *(Text(f"! {line}", style="yellow") for line in report.warnings))


def report_to_markdown(report: ComparisonReport) -> str:
    """All tables, conclusions and warnings as Markdown."""
    parts = [*(table_formats.table_to_markdown(table) for table in report.tables.values())]
    if report.conclusions:
        parts.append("\n".join(f"- {escaped(line)}" for line in report.conclusions) + "\n")
    if report.warnings:
        parts.append("**Warnings**\n\n" + "\n".join(f"- {escaped(line)}" for line in report.warnings) + "\n")
    return "\n".join(parts)


def report_to_csv(report: ComparisonReport) -> dict[str, str]:
    """Each table as the text of a CSV file, by the table's name."""
    return {name: table_formats.table_to_csv(table) for name, table in report.tables.items()}


def report_to_json(report: ComparisonReport) -> dict[str, Any]:
    """Tables, conclusions and warnings as JSON values; `contest` is the reference against the best other model."""
    best = report.best
    contest = best and {"own": best.reference, "rival": best.other, "difference": asdict(best.difference)}
    if contest and best and best.over_rows_and_seeds:
        contest["over_rows_and_seeds"] = asdict(best.over_rows_and_seeds)
    return {
        "tables": {name: table_formats.table_to_records(table) for name, table in report.tables.items()},
        "contest": contest,
        "conclusions": list(report.conclusions),
        "warnings": list(report.warnings),
    }
