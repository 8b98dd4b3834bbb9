"""All commands, in the order in which help lists them, and the options before them."""

from __future__ import annotations

import logging
import os
from typing import Annotated

import typer

from cycleqd_merge.cli.comparing import compare
from cycleqd_merge.cli.hub import pull, push
from cycleqd_merge.cli.looking import evaluate, plot, report, show
from cycleqd_merge.cli.models import convert, export, merge
from cycleqd_merge.cli.running import confirm, evolve, fork, plan
from cycleqd_merge.cli.schemas import schema
from cycleqd_merge.cli.tasks import build_sandbox, check_task, sandbox_options, task_options

app = typer.Typer(
    name="cycleqd-merge",
    help="Evolve merges of fine-tuned language models with CycleQD.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def options(
    debug: Annotated[bool, typer.Option(help="Show tracebacks and debug messages.")] = False,
) -> None:
    """Options for every command."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("cycleqd_merge").setLevel(logging.DEBUG if debug else logging.INFO)
    os.environ.setdefault("TQDM_DISABLE", "1")  # the libraries' own progress bars would break into ours


app.callback()(options)
for command in (
    evolve,
    fork,
    plan,
    show,
    evaluate,
    export,
    confirm,
    plot,
    report,
    compare,
    push,
    pull,
    merge,
    convert,
    schema,
):
    app.command()(command)

task_app = typer.Typer(help="Look at tasks by themselves, without a recipe.", no_args_is_help=True)
task_app.callback()(task_options)
task_app.command("check")(check_task)
app.add_typer(task_app, name="task")

sandbox_app = typer.Typer(help="What untrusted programs run in.", no_args_is_help=True)
sandbox_app.callback()(sandbox_options)
sandbox_app.command("build")(build_sandbox)
app.add_typer(sandbox_app, name="sandbox")
