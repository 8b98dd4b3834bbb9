"""The command `schema`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from cycleqd_merge.cli.printing import print_json


class SchemaOf(StrEnum):
    """Kinds of file that have a JSON Schema."""

    recipe = "recipe"
    task = "task"


def schema_command(
    of: Annotated[SchemaOf, typer.Argument(metavar="KIND", help="Kind of file to describe.")] = SchemaOf.recipe,
) -> None:
    """Print the JSON Schema of recipes or task files, for editors."""
    from cycleqd_merge.config.recipe import json_schema

    print_json(json_schema(of.value))
