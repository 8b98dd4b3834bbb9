"""The command `compare`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cycleqd_merge.cli.options import Json, MaxHours, Settings
from cycleqd_merge.cli.printing import console, print_json, print_progress

if TYPE_CHECKING:
    from cycleqd_merge.comparison.strategy_runs import PlannedRun
    from cycleqd_merge.run.observer import Observer

DEFAULT_STRATEGIES = "recommended,paper,cma-es,mergekit"


def compare_command(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe.", show_default=False)],
    strategies: Annotated[
        str, typer.Option(help="Strategies to compare, by name; the first is the reference; name:3 for three seeds.")
    ] = DEFAULT_STRATEGIES,
    budget: Annotated[int, typer.Option(min=1, help="Number of children that each run evaluates on all rows.")] = 150,
    budget_seconds: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="Also end a run once its workers have spent this many seconds on fits and search scores.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of runs per strategy, each with its own seed.")] = 3,
    output: Annotated[
        str | None, typer.Option(help="Directory of the comparison; by default the recipe's output plus `-compared`.")
    ] = None,
    tune: Annotated[
        bool,
        typer.Option("--tune", help="At the end, score on the confirmation split; leave the held-out split unopened."),
    ] = False,
    settings: Settings = None,
    max_hours: MaxHours = None,
    as_json: Json = False,
) -> None:
    """Benchmark strategies against each other and static merges; resumes an existing comparison."""
    from cycleqd_merge.config.loading import load_recipe

    loaded = load_recipe(recipe, settings or [])
    from cycleqd_merge.comparison.compare import compare  # takes seconds: after the recipe is validated
    from cycleqd_merge.comparison.tables import report_to_json, report_to_terminal

    finished = compare(
        loaded,
        [name.strip() for name in strategies.split(",") if name.strip()],
        budget,
        seeds,
        _observers,
        _show_scored,
        output=output,
        rows="confirm" if tune else "heldout",
        budget_seconds=budget_seconds,
        max_hours=max_hours,
    )
    if as_json:
        print_json(report_to_json(finished.report))
        return
    console().print(report_to_terminal(finished.report))
    for path in finished.files:
        typer.echo(path)


@contextmanager
def _observers(planned: PlannedRun, alone: bool) -> Iterator[Observer]:
    """A live progress display for a single run; single lines of progress for each of several runs."""
    from cycleqd_merge.report.progress import Milestones, ProgressDisplay

    name = f"{planned.strategy}, seed {planned.seed}"
    if not alone:
        yield Milestones(console(stderr=True), name)
        return
    print_progress(name)
    with ProgressDisplay(console(stderr=True)) as progress:
        yield progress


def _show_scored(split: str, done: int, total: int) -> None:
    if done == total or done % 10 == 0:
        print_progress(f"{split}: {done} of {total} models scored")
