"""The output of `evolve`: progress during the search, then the archives and everything that the recipe asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import typer

from cycleqd_merge.cli.printing import console, print_archives, print_confirmed, print_scores
from cycleqd_merge.evolution.archive import Scores
from cycleqd_merge.report.progress import ProgressDisplay
from cycleqd_merge.run.state import Run


class EvolveDisplay(ProgressDisplay):
    """Prints a run's progress and results; under `--quiet` the results alone."""

    def __init__(self) -> None:
        super().__init__(console(progress=True))
        self.folder: str | None = None
        """The run directory, once it contains a run that can be resumed."""

    def started(self, run: Run) -> None:
        """See `Observer`."""
        self.folder = run.recipe.output
        super().started(run)

    def searched(self, run: Run) -> None:
        """See `Observer`."""
        self.stop()
        print_archives(run)
        print_confirmed(run)

    def exported(self, name: str, folder: Path) -> None:
        """See `Observer`."""
        typer.echo(f"exported {name} to {folder}")

    def measured(self, run: Run, split: str, scores: Mapping[str, Scores]) -> None:
        """See `Observer`."""
        print_scores(run, split, scores)

    def pushed(self, lines: Sequence[str]) -> None:
        """See `Observer`."""
        for line in lines:
            typer.echo(line)
