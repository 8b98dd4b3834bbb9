"""The command line: parse, call, print. Heavy imports happen inside the commands, so that help is instant."""

from __future__ import annotations

import shlex
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import typer

from cycleqd_merge.cache import give_libraries_folders
from cycleqd_merge.cli.commands import app
from cycleqd_merge.cli.streams import loss_of_output, make_dependable
from cycleqd_merge.cli.verbosity import OPTIONS, print_messages_to
from cycleqd_merge.errors import Interrupted, RunFailed, UserError, brief, first_line, printable
from cycleqd_merge.files import write_failure
from cycleqd_merge.machine_errors import machine_failure
from cycleqd_merge.redaction import redacted
from cycleqd_merge.run.interruption import terminable

__all__ = ["app", "main"]

FAILED, WRONG_INPUT, INTERRUPTED = 1, 2, 130
_MOST_LINES, _LONGEST_LINE = 200, 4000
_UsageError: Any = typer.BadParameter.__bases__[0]  # click's, of which some versions of typer contain a copy


def main() -> None:
    """Run the command line; errors become one line and an exit code, and with `--debug` a traceback.

    Output that nobody reads is dropped; output that cannot be written otherwise is an error, once the work is done.
    """
    descriptors = make_dependable()
    if descriptors:
        print_messages_to(sys.stderr)
    give_libraries_folders()
    try:
        _run()
    except SystemExit as ended:
        lost = None if ended.code else loss_of_output(descriptors)
        if lost is None:
            raise
        _fail(lost, f"stdout: cannot be written: {write_failure(lost) or lost.strerror}", FAILED)


def _run() -> None:
    """Run the command, then exit."""
    arguments = sys.argv[1:]
    try:
        with terminable():  # SIGTERM too lets a command remove its temporary files
            code = app(args=common_options_first(arguments), prog_name="cycleqd-merge", standalone_mode=False)
        if code == INTERRUPTED:  # typer's answer to Ctrl-C
            typer.echo("interrupted", err=True)
        sys.exit(code)
    except _UsageError as error:
        _explain_usage(error)
        sys.exit(WRONG_INPUT)
    except UserError as error:
        _fail(error, str(error), WRONG_INPUT)
    except RunFailed as error:
        _fail(error, str(error), FAILED)
    except Interrupted as error:
        command = error.resume_command or _command_line(*arguments)
        typer.echo(redacted(f"{error}; resume with: {command}"), err=True)
        sys.exit(INTERRUPTED)
    except Exception as raised:
        cause = raised.__cause__ or raised if isinstance(raised, typer.Abort) else raised  # typer hides an EOFError
        if (reason := write_failure(cause)) is not None:
            place = getattr(cause, "filename", None)
            _fail(cause, f"{'' if place is None else f'{place}: '}cannot be written: {reason}", FAILED)
        if (line := machine_failure(cause)) is not None:
            _fail(cause, line, FAILED)
        if sys.flags.optimize > 1:  # transformers and others read their own docstrings
            what = "libraries need the docstrings that -OO or PYTHONOPTIMIZE=2 removes; unset it"
            _fail(cause, f"{type(cause).__name__}: {first_line(cause)}; {what}", FAILED)
        hint = "" if _debug() else f"; for a traceback run `{_command_line('--debug', *arguments)}`"
        _fail(cause, f"{type(cause).__name__}: {first_line(cause)} (internal error{hint})", FAILED)


def common_options_first(arguments: Sequence[str]) -> list[str]:
    """The arguments, with the options that every command accepts moved to the front, where typer expects them."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    common = [argument for argument in arguments[:end] if argument in OPTIONS]
    return [*common, *(argument for argument in arguments[:end] if argument not in OPTIONS), *arguments[end:]]


def _debug() -> bool:
    return "--debug" in sys.argv


def _command_line(*arguments: str) -> str:
    return shlex.join(["cycleqd-merge", *arguments])


def _explain_usage(error: Any) -> None:
    """Print one line about a wrong option or argument; nothing after the help that a missing command prints."""
    if type(error).__name__ == "NoArgsIsHelpError":
        return
    command = error.ctx.command_path if error.ctx is not None else "cycleqd-merge"
    message = " ".join(error.format_message().split()).rstrip(".")
    typer.echo(redacted(f"error: {message}; see `{command} --help`"), err=True)


def _fail(error: BaseException, message: str, code: int) -> None:
    if _debug():
        for line in redacted("".join(traceback.format_exception(error))).split("\n")[:-1]:
            typer.echo(printable(line), err=True)
    message = redacted(message)
    for argument in sys.argv:
        if len(argument.splitlines()) > 1:  # a file's name may contain line breaks
            message = message.replace(argument, ascii(argument))
    lines = message.splitlines()
    for line in lines[:_MOST_LINES]:
        typer.echo(f"error: {brief(printable(line), _LONGEST_LINE)}", err=True)
    if len(lines) > _MOST_LINES:
        typer.echo(f"error: {len(lines) - _MOST_LINES} more errors", err=True)
    sys.exit(code)
