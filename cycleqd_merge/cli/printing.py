"""Printing that several commands share."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

from cycleqd_merge.cli.verbosity import is_quiet
from cycleqd_merge.redaction import redacted

if TYPE_CHECKING:
    from rich.console import Console

    from cycleqd_merge.hub.draft import Pushed
    from cycleqd_merge.run.state import Run


def console(stderr: bool = False, progress: bool = False) -> Console:
    """A console as wide as the terminal, or 160 columns wide in a file.

    Under `--quiet` it prints nothing if it is for progress, as every console on stderr is.
    """
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else 160
    return Console(width=width, soft_wrap=False, stderr=stderr, quiet=(progress or stderr) and is_quiet())


def print_progress(line: str) -> None:
    """Print a line on stderr, except under `--quiet`."""
    if not is_quiet():
        typer.echo(redacted(line), err=True)


def print_json(value: Any) -> None:
    """Print the answer to `--json`."""
    typer.echo(redacted(json.dumps(value, indent=1)))


def print_archives(run: Run) -> None:
    """Print a run's archives: a line and a heatmap for each."""
    from cycleqd_merge.report.tables import heatmaps, overview

    if run.archives:
        console().print(overview(run.archives, run.objectives), heatmaps(run.archives, run.objectives))


def print_confirmed(run: Run) -> None:
    """Print the elites that were scored on the confirmation split."""
    from cycleqd_merge.report.optimism import chosen_mean
    from cycleqd_merge.report.tables import confirmed_table

    if run.confirmed:
        console().print(confirmed_table(run))
        if (chosen := chosen_mean(run)) is not None:
            typer.echo(chosen)


def print_scores(run: Run, split: str, scores: Mapping[str, tuple[float, ...]]) -> None:
    """Print the scores of a run's models on `split`."""
    from cycleqd_merge.report.scores import ScoreTable
    from cycleqd_merge.report.tables import score_table
    from cycleqd_merge.tasks.protocol import SPLIT_NAMES

    title = f"Scores on the {SPLIT_NAMES[split]}"
    console().print(score_table(title, ScoreTable.of_scores(scores, run.tasks, run.objectives)))


def print_pushed(pushed: Pushed, dry: bool = False) -> None:
    """Print the files that were pushed to one repository; with `dry`, those that would be."""
    from cycleqd_merge.hub.pushed import pushed_lines

    for line in pushed_lines(pushed, dry):
        typer.echo(line)
