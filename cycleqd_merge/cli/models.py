"""Commands that write models, and mergekit's configurations: `export`, `merge` and `convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cycleqd_merge.cli.options import RunFolder
from cycleqd_merge.cli.printing import console


def export(
    run: RunFolder,
    elite: Annotated[str, typer.Argument(help="best-mean, aggregate, best:TASK, TASK:CELL, #NUMBER ...")],
    out: Annotated[Path, typer.Argument(help="Folder to write.", show_default=False)],
) -> None:
    """Write a model of a run as a checkpoint that transformers loads."""
    from cycleqd_merge.run.elites import choose
    from cycleqd_merge.run.state import open_run

    loaded = open_run(run)
    choose(loaded, elite)  # reports a wrong name before the import below, which takes seconds
    from cycleqd_merge.outputs.export import export as write

    chosen = write(loaded, elite, out)
    console().print(f"{chosen.label} is in {out}", highlight=False)


def merge(
    config: Annotated[Path, typer.Argument(help="A mergekit configuration.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="Folder to write.", show_default=False)],
) -> None:
    """Run a mergekit configuration, the method `cycleqd` of an exported elite among them."""
    from cycleqd_merge.merging.mergekit_run import merge_to_disk

    merge_to_disk(config, out)


def convert(genome: Annotated[Path, typer.Argument(help="A mergekit-evolve YAML.", show_default=False)]) -> None:
    """Print a mergekit-evolve configuration as a recipe."""
    from cycleqd_merge.config.convert import convert_genome, to_yaml

    typer.echo(to_yaml(convert_genome(genome)), nl=False)
