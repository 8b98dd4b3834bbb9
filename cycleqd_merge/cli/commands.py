"""All commands, in the order in which help lists them, and the options of every command."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Annotated

import typer

from cycleqd_merge.cli.comparing import compare_command
from cycleqd_merge.cli.hub import pull_command, push_command
from cycleqd_merge.cli.models import convert_command, export_command, merge_config_command
from cycleqd_merge.cli.results import evaluate_command, plot_command, report_command, show_command
from cycleqd_merge.cli.runs import confirm_command, evolve_command, fork_command, plan_command
from cycleqd_merge.cli.schemas import schema_command
from cycleqd_merge.cli.tasks import (
    build_sandbox_command,
    check_task_command,
    sandbox_options,
    show_task_command,
    task_options,
)
from cycleqd_merge.cli.verbosity import set_verbosity

COMMON_OPTIONS = "Every command also accepts --quiet, --verbose and --debug."

app = typer.Typer(
    name="cycleqd-merge",
    help="Evolve merges of fine-tuned language models with CycleQD.",
    epilog="--quiet, --verbose and --debug are accepted before or after the command.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def print_version(wanted: bool) -> None:
    """Print the version of this package and exit."""
    if wanted:
        from cycleqd_merge import __version__

        typer.echo(f"cycleqd-merge {__version__}")
        raise typer.Exit


def options(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only results and errors.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Print debug messages.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Print debug messages, and tracebacks of errors.")] = False,
) -> None:
    """Options of every command."""
    if quiet and (verbose or debug):
        raise typer.BadParameter("--quiet cannot be combined with --verbose or --debug")
    set_verbosity(quiet, verbose or debug)
    os.environ.setdefault("TQDM_DISABLE", "1")  # libraries' progress bars would garble our own


app.callback()(options)
_COMMANDS: dict[str, Callable[..., None]] = {
    "evolve": evolve_command,
    "fork": fork_command,
    "plan": plan_command,
    "show": show_command,
    "evaluate": evaluate_command,
    "export": export_command,
    "confirm": confirm_command,
    "plot": plot_command,
    "report": report_command,
    "compare": compare_command,
    "push": push_command,
    "pull": pull_command,
    "merge": merge_config_command,
    "convert": convert_command,
    "schema": schema_command,
}
for name, command in _COMMANDS.items():
    app.command(name, epilog=COMMON_OPTIONS)(command)

task_app = typer.Typer(help="Look at tasks and check them on their own, without a recipe.", no_args_is_help=True)
task_app.callback()(task_options)
task_app.command("show", epilog=COMMON_OPTIONS)(show_task_command)
task_app.command("check", epilog=COMMON_OPTIONS)(check_task_command)
app.add_typer(task_app, name="task")

sandbox_app = typer.Typer(help="Manage sandboxes for untrusted code.", no_args_is_help=True)
sandbox_app.callback()(sandbox_options)
sandbox_app.command("build", epilog=COMMON_OPTIONS)(build_sandbox_command)
app.add_typer(sandbox_app, name="sandbox")
