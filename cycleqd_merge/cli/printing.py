"""What several commands print."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from cycleqd_merge.hub.draft import Pushed
    from cycleqd_merge.run.state import Run


def console(stderr: bool = False) -> Console:
    """Where tables go: as wide as the terminal, or 160 columns in a file."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(width=None if stream.isatty() else 160, soft_wrap=False, stderr=stderr)


def print_json(value: Any) -> None:
    """What `--json` answers."""
    typer.echo(json.dumps(value, indent=1))


def print_archives(run: Run) -> None:
    """A run's archives: a line and a heatmap for each."""
    from cycleqd_merge.report.tables import heatmaps, overview

    if run.archives:
        console().print(overview(run.archives, run.objectives), heatmaps(run.archives, run.objectives))


def print_confirmed(run: Run) -> None:
    """The elites that were scored again."""
    from cycleqd_merge.report.tables import confirmed_table

    if run.confirmed:
        console().print(confirmed_table(run))


def print_scores(run: Run, split: str, scores: Mapping[str, tuple[float, ...]]) -> None:
    """What models of a run score on the rows of `split`."""
    from cycleqd_merge.report.scores import ScoreTable
    from cycleqd_merge.report.tables import score_table

    console().print(score_table(f"Scores on {split} rows", ScoreTable.of_scores(scores, run.tasks, run.objectives)))


def print_pushed(pushed: Pushed, dry: bool = False) -> None:
    """What was pushed to one repository, or would be."""
    from cycleqd_merge.hub.pushed import pushed_lines

    for line in pushed_lines(pushed, dry):
        typer.echo(line)
