"""The commands `export`, `merge` and `convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cycleqd_merge.cli.options import NewFolder, Pickles, RunFolder, TrustRemoteCode


def export_command(
    run: RunFolder,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="best-mean, best:TASK, TASK:CELL, #NUMBER, aggregate, expert:NAME, mean or base.",
            show_default=False,
        ),
    ],
    out: NewFolder,
) -> None:
    """Export a model of a run as a checkpoint that transformers can load."""
    from cycleqd_merge.run.elites import choose
    from cycleqd_merge.run.state import open_run

    loaded = open_run(run)
    choose(loaded, model)  # reports a wrong name before the import below, which takes seconds
    from cycleqd_merge.outputs.export import export

    exported = export(loaded, model, out)
    typer.echo(f"exported {exported.label} to {out}")


def merge_config_command(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A mergekit configuration.", show_default=False)],
    out: NewFolder,
    trust_remote_code: TrustRemoteCode = False,
    pickles: Pickles = False,
) -> None:
    """Run a mergekit configuration; supports the merge method `cycleqd`, which exported models use."""
    from cycleqd_merge.config.recipe import ModelsConfig
    from cycleqd_merge.merging.mergekit_run import merge_to_disk

    merge_to_disk(config, out, models=ModelsConfig(trust_remote_code=trust_remote_code, pickles=pickles))


def convert_command(
    genome: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="A mergekit-evolve configuration.", show_default=False)
    ],
) -> None:
    """Convert a mergekit-evolve configuration to a recipe and print it."""
    from cycleqd_merge.config.convert import convert_genome, to_yaml

    typer.echo(to_yaml(convert_genome(genome)), nl=False)
