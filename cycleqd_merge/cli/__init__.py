"""The command line: parse, call, print. Heavy imports happen inside the commands, so that help is instant."""

from __future__ import annotations

import shlex
import sys

import typer

from cycleqd_merge.cli.commands import app
from cycleqd_merge.errors import Interrupted, RunFailed, UserError

__all__ = ["app", "main"]

FAILED, WRONG_INPUT, INTERRUPTED = 1, 2, 130


def main() -> None:
    """Run the command line; an error becomes one line and an exit code, a traceback only with `--debug`."""
    try:
        app()
    except UserError as error:
        _fail(error, str(error), WRONG_INPUT)
    except RunFailed as error:
        _fail(error, str(error), FAILED)
    except Interrupted as error:
        typer.echo(f"{error}; go on with: {shlex.join([app.info.name or '', *sys.argv[1:]])}", err=True)
        sys.exit(INTERRUPTED)
    except Exception as error:
        _fail(error, f"{type(error).__name__}: {error} (a fault of this program; --debug shows where)", FAILED)


def _fail(error: Exception, message: str, code: int) -> None:
    if "--debug" in sys.argv:
        raise error
    for line in message.splitlines():
        typer.echo(f"error: {line}", err=True)
    sys.exit(code)
