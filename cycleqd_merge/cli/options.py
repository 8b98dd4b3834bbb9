"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.", show_default=False)]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the recipe.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
RecipeOrRun = Annotated[Path, typer.Argument(help="A recipe, or the directory of a run to go on with.")]
Generations = Annotated[int | None, typer.Option(min=0, help="Children to evaluate in all.")]
Output = Annotated[str | None, typer.Option(help="Run directory.")]
MaxHours = Annotated[float | None, typer.Option(min=0, help="Stop after so many hours; go on later.")]
