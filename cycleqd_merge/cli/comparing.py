"""The command that sets searches against each other: `compare`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cycleqd_merge.cli.options import Json, MaxHours, Settings
from cycleqd_merge.cli.printing import console, print_json

if TYPE_CHECKING:
    from cycleqd_merge.comparison.searches import Planned
    from cycleqd_merge.run.observer import Observer

SEARCHES = "recommended,paper,cma-es,mergekit"


def compare(
    recipe: Annotated[Path, typer.Argument(help="A recipe.", show_default=False)],
    strategies: Annotated[
        str, typer.Option(help="Searches to compare, by name; all others are held against the first.")
    ] = SEARCHES,
    budget: Annotated[int, typer.Option(min=1, help="Children that each search evaluates.")] = 150,
    seeds: Annotated[int, typer.Option(min=1, help="How often each search runs, with another seed.")] = 3,
    output: Annotated[str | None, typer.Option(help="Directory; by default the recipe's with `-compared`.")] = None,
    tune: Annotated[
        bool, typer.Option("--tune", help="Judge on the rows that the recipe sets aside; held-out rows stay closed.")
    ] = False,
    settings: Settings = None,
    max_hours: MaxHours = None,
    as_json: Json = False,
) -> None:
    """Set searches against each other and the usual merges, on held-out rows; begin, or go on with what is there."""
    from cycleqd_merge.comparison.experiment import compare as run_comparison
    from cycleqd_merge.comparison.tables import report, terminal, to_json
    from cycleqd_merge.comparison.writing import write
    from cycleqd_merge.config.loading import load_recipe

    loaded = load_recipe(recipe, settings or [])
    loaded = loaded.model_copy(update={"output": output or f"{loaded.output}-compared"})
    names = [name.strip() for name in strategies.split(",") if name.strip()]
    compared = run_comparison(
        loaded,
        names,
        budget,
        seeds,
        _observing,
        _scored,
        rows="confirm" if tune else "heldout",
        max_hours=max_hours,
    )
    said = report(compared.findings)
    paths = write(compared.findings, said, compared.archives, Path(loaded.output))
    if as_json:
        print_json(to_json(said))
        return
    console().print(terminal(said))
    for path in paths:
        typer.echo(path)


@contextmanager
def _observing(search: Planned, alone: bool) -> Iterator[Observer]:
    from cycleqd_merge.report.progress import Milestones, ProgressDisplay

    name = f"{search.name}, seed {search.seed}"
    if not alone:
        yield Milestones(console(stderr=True), name)
        return
    typer.echo(name, err=True)
    with ProgressDisplay(console(stderr=True)) as progress:
        yield progress


def _scored(done: int, models: int) -> None:
    if done == models or done % 10 == 0:
        typer.echo(f"rows that judge: {done} of {models} models", err=True)
