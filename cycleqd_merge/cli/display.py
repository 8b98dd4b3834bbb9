"""What `evolve` shows: progress while it searches, then the archives and whatever the recipe asks for at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import typer

from cycleqd_merge.cli.printing import console, print_archives, print_confirmed, print_scores
from cycleqd_merge.evolution.archive import Scores
from cycleqd_merge.report.progress import ProgressDisplay
from cycleqd_merge.run.state import Run


class Display(ProgressDisplay):
    """Prints a run's progress and results."""

    def searched(self, run: Run) -> None:
        """See `Observer`."""
        self.stop()
        print_archives(run)
        print_confirmed(run)

    def exported(self, name: str, folder: Path) -> None:
        """See `Observer`."""
        console().print(f"{name} is in {folder}", highlight=False)

    def measured(self, run: Run, split: str, scores: Mapping[str, Scores]) -> None:
        """See `Observer`."""
        print_scores(run, split, scores)

    def pushed(self, lines: Sequence[str]) -> None:
        """See `Observer`."""
        for line in lines:
            typer.echo(line)
