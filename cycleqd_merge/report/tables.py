"""Archives and scores as tables and text heatmaps for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cycleqd_merge.evolution.archive import Archive
from cycleqd_merge.evolution.candidate import Candidate
from cycleqd_merge.evolution.genome import Genome
from cycleqd_merge.report.row_coverage import SOLVED, RowCoverage
from cycleqd_merge.report.scores import ScoreTable
from cycleqd_merge.report.summary import best_mean, fit_summaries, progress
from cycleqd_merge.report.task_show import visible
from cycleqd_merge.run.state import Run
from cycleqd_merge.tasks.check import GradingCheck

_MOST_NAMED = 5
"""Rows that a table names."""
_SHADES = " ░▒▓█"
_FOUNDERS = {"expert": "expert", "seed": "founder", "fit": "fit", "level": "level"}
"""Names of the steps without parents, by the key of a step in the journal."""


def progress_line(run: Run) -> str:
    """A run's progress: generations, failures, children below a floor or rejected early, the best-mean elite."""
    facts = progress(run)
    parts = [f"generation {facts['generation']} of {facts['generations']}", f"{facts['failed']} failed"]
    if run.search.space.fits:
        parts.append(f"{len(run.fits)} of {run.search.space.fits} fits learned")
    if run.search.floors:
        parts.append(f"{facts['below_floor']} below a floor")
    if facts["rows_saved"] is not None:
        parts.append(f"{facts['censored']} rejected early ({facts['rows_saved']:.0%} of all rows saved)")
    return ", ".join([*parts, f"best mean #{best_mean(run)}"])


def overview(archives: Sequence[Archive], tasks: Sequence[str]) -> Table:
    """One row per archive: elites, coverage, QD score, best quality."""
    table = Table(title="Archives", title_justify="left")
    for heading in ("quality", "elites", "coverage", "QD score", "best", "best elite"):
        table.add_column(heading, justify="left" if heading == "quality" else "right")
    for archive in archives:
        best = archive.best()
        table.add_row(
            tasks[archive.task],
            str(len(archive.elites())),
            f"{archive.coverage:.1%}",
            f"{archive.qd_score:.2f}",
            "-" if best is None else f"{best.scores[archive.task]:.3f}",
            "-" if best is None else cell_name(tasks[archive.task], best.cell),
        )
    return table


def elite_table(archive: Archive, run: Run, most: int | None = None) -> Table:
    """An archive's elites by quality, with their scores on every task; at most `most` of them."""
    tasks = run.tasks
    elites = sorted(archive.elites(), key=lambda elite: -elite.scores[archive.task])
    shown = elites[:most]
    title = f"Archive {tasks[archive.task]}: {len(shown)} of {len(elites)} elites"
    table = Table(title=title, title_justify="left")
    table.add_column("elite")
    table.add_column("evaluation", justify="right")
    for task in tasks:
        table.add_column(task, justify="right")
    for elite in shown:
        scores = (f"{score:.3f}" for score in run.scores(elite.number))
        table.add_row(cell_name(tasks[archive.task], elite.cell), f"#{elite.number}", *scores)
    return table


def heatmap(archive: Archive, tasks: Sequence[str]) -> RenderableType:
    """A text heatmap over the first two behaviour characteristics: the best quality over all others."""
    flat = archive.heatmap(range(len(archive.others))[:2])
    rows, columns = tasks[archive.others[0]], tasks[archive.others[1]] if flat.ndim > 1 else ""
    flat = flat.reshape(len(flat), -1)
    low, high = archive.bounds[archive.task]
    lines = [Text(f"{tasks[archive.task]}  (up: {rows}, right: {columns or 'all'})", style="bold")]
    for row in reversed(range(flat.shape[0])):
        lines.append(Text("│" + "".join(_shade(value, low, high) * 2 for value in flat[row]) + "│"))
    lines.append(Text(f"· empty  {_SHADES[1]} {low:.2f}  {_SHADES[-1]} {high:.2f}", style="dim"))
    return Group(*lines)


def heatmaps(archives: Sequence[Archive], tasks: Sequence[str]) -> RenderableType:
    """The heatmaps of all archives side by side."""
    grid = Table.grid(padding=(0, 3))
    grid.add_row(*(heatmap(archive, tasks) for archive in archives))
    return grid


def row_coverage_table(coverage: Sequence[RowCoverage]) -> Table:
    """One row per task: how many search rows are solved, by which models, and how many by none."""
    table = Table(title=f"Search rows solved (score of at least {SOLVED:g})", title_justify="left")
    for heading in ("task", "rows", "experts", "best mean", "merged elites", "only experts", "none"):
        table.add_column(heading, justify="left" if heading == "task" else "right")
    for each in coverage:
        counts = (each.rows, each.experts, each.best, each.merged, len(each.lost), len(each.unsolved))
        table.add_row(each.task, *map(str, counts))
    return table


def score_table(title: str, scores: ScoreTable) -> Table:
    """One row per model: a score per task and their mean; the best of each is marked."""
    table = Table(title=title, title_justify="left")
    table.add_column("model")
    for task in (*scores.tasks, "mean"):
        table.add_column(task, justify="right")
    for row in scores.rows:
        table.add_row(row.model, *map(_score_cell, row.scores, scores.best))
    return table


def _score_cell(score: float | None, best: float | None) -> str:
    if score is None:
        return "-"
    return f"[bold]{score:.3f}[/bold]" if score == best else f"{score:.3f}"


def genome_table(genome: Genome, experts: Sequence[str], groups: Sequence[str]) -> Table:
    """A genome: the coefficient of each expert and the share of each fit per group, and the number of mutations."""
    fits = f", shares of {len(genome.fits)} fits" if genome.fits else ""
    table = Table(title=f"Genome: {len(genome.mutations)} mutations{fits}", title_justify="left")
    table.add_column("group")
    for name in (*experts, *(f"fit {digest[:12]}" for digest in genome.fits)):
        table.add_column(name, justify="right")
    for group, column in zip(groups, np.vstack([genome.coefficients, genome.fit_shares]).T, strict=True):
        table.add_row(group, *(f"{value:.4f}" for value in column))
    return table


def candidate_view(candidate: Candidate, experts: Sequence[str], groups: Sequence[str]) -> RenderableType:
    """The composition of a model: the table of its genome, or its mergekit configuration."""
    if isinstance(candidate, Genome):
        return genome_table(candidate, experts, groups)
    title = Text(f"mergekit configuration, random seed {candidate.seed}", style="italic")
    return Group(title, Text(candidate.yaml.rstrip("\n"), no_wrap=True, overflow="ignore"))


def lineage_table(line: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> Table:
    """An evaluation and its ancestors, with parents, mutation and scores."""
    table = Table(title="Lineage", title_justify="left")
    for heading in ("evaluation", "parents", "mutation", *tasks):
        table.add_column(heading)
    for entry in line:
        step, scores = entry["step"], entry["scores"]
        founder = next((f"{name} {step[kind]}" for kind, name in _FOUNDERS.items() if kind in step), "-")
        parents = ", ".join(f"#{parent}" for parent in step.get("parents", [])) or founder
        mutation = _mutation_name(step.get("mutation", {}))
        table.add_row(f"#{entry['evaluation']}", parents, mutation, *(f"{score:.3f}" for score in scores or ()))
    return table


def fit_table(run: Run) -> Table:
    """One row per fit: the weights of its tasks, how it was learned, and its mean score."""
    table = Table(title="Fits", title_justify="left")
    for heading in ("fit", "weights of the tasks", "loss", "steps", "tokens", "seconds", "evaluation", "mean"):
        table.add_column(heading, justify="left" if heading in ("fit", "weights of the tasks") else "right")
    for fit in fit_summaries(run):
        table.add_row(
            f"{fit['number'] + 1} {fit['digest'][:12]}",
            ", ".join(f"{task} {weight:g}" for task, weight in (fit["weights"] or {}).items()),
            "-" if fit["loss"] is None else f"{fit['loss'][0]:.3f} to {fit['loss'][1]:.3f}",
            "-" if fit["steps"] is None else str(fit["steps"]),
            f"{fit['tokens'] or 0:,}",
            f"{fit['seconds']:.0f}",
            f"#{fit['evaluation']}",
            "-" if fit["mean"] is None else f"{fit['mean']:.3f}",
        )
    return table


def _mutation_name(mutation: Mapping[str, Any]) -> str:
    """A step's mutation in a few words."""
    of = f"expert {mutation['expert']}" if "expert" in mutation else mutation.get("of")
    return f"{mutation['kind']} of {of}" if of is not None else mutation.get("kind", "-")


def confirmed_table(run: Run) -> Table:
    """The confirmed elites by their mean over both splits, with their scores on each."""
    table = Table(title="Confirmed elites: score on the search split / confirmation split", title_justify="left")
    for heading in ("evaluation", *run.tasks, "mean", "over both"):
        table.add_column(heading, justify="left" if heading == "evaluation" else "right")
    order = sorted(run.confirmed, key=lambda number: -run.mean(run.judged(number)))
    for number in order:
        searched, confirmed = run.scores(number), run.confirmed[number]
        pairs = [*zip(searched, confirmed, strict=True)]
        pairs.append((run.mean(searched), run.mean(confirmed)))
        cells = (f"{search:.3f} / {again:.3f}" for search, again in pairs)
        table.add_row(f"#{number}", *cells, f"{run.mean(run.judged(number)):.3f}")
    return table


def cell_name(task: str, cell: Sequence[int]) -> str:
    """The name of an elite on the command line."""
    return f"{task}:{','.join(map(str, cell))}"


def _shade(value: float, low: float, high: float) -> str:
    if np.isnan(value):
        return "·"
    level = (value - low) / (high - low)
    return _SHADES[1 + min(int(max(level, 0.0) * (len(_SHADES) - 1)), len(_SHADES) - 2)]


def verdict_table(verdicts: Sequence[GradingCheck]) -> Table:
    """One row per kind of known answer: how many were accepted, and the first rows that are graded incorrectly."""
    table = Table(title="Known answers", title_justify="left")
    for heading in ("answer", "expected", "accepted", "graded incorrectly"):
        table.add_column(heading, justify="right" if heading == "accepted" else "left", overflow="fold")
    for answer, right in dict.fromkeys((verdict.answer, verdict.right) for verdict in verdicts):
        given = [verdict for verdict in verdicts if (verdict.answer, verdict.right) == (answer, right)]
        accepted = sum(verdict.score == 1.0 for verdict in given)
        wrong = [verdict.place or verdict.sample for verdict in given if not verdict.passed]
        more = [f"and {len(wrong) - _MOST_NAMED} more"] if len(wrong) > _MOST_NAMED else []
        named = Text(visible(", ".join([*wrong[:_MOST_NAMED], *more])))
        table.add_row(answer, "accepted" if right else "rejected", f"{accepted} of {len(given)}", named)
    return table
