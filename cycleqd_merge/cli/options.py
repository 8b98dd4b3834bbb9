"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.", show_default=False)]
NewFolder = Annotated[Path, typer.Argument(metavar="OUT", help="Directory to create.", show_default=False)]
RecipeOrRun = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="A recipe, or the directory of a run to resume.", show_default=False)
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a key of the recipe, such as evolution.seed=3; repeatable."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Generations = Annotated[int | None, typer.Option(min=0, help="Total number of children to evaluate.")]
Output = Annotated[str | None, typer.Option(help="Run directory; by default the recipe's `output`.")]
MaxHours = Annotated[float | None, typer.Option(min=0, help="Stop after this many hours; rerun to resume.")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run the Python code that the models' repositories contain.")
]
Pickles = Annotated[bool, typer.Option("--pickles", help="Read models that are stored as pickles only.")]
