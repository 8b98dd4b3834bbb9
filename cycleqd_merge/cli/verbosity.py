"""How much the command line prints: `--quiet`, `--verbose` and `--debug`."""

from __future__ import annotations

import logging
from typing import TextIO

from cycleqd_merge.redaction import RedactingFormatter

OPTIONS = ("--quiet", "--verbose", "--debug")
"""Accepted before and after the command."""

_STDERR = logging.StreamHandler()


def set_verbosity(quiet: bool, verbose: bool) -> None:
    """Print errors only, or debug messages too; by default notices and warnings.

    `--quiet` is a level of what is printed, not of the package's logger: a run's log file keeps its warnings.
    """
    _STDERR.setLevel(logging.ERROR if quiet else logging.NOTSET)
    _STDERR.setFormatter(RedactingFormatter("%(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[_STDERR])
    logging.getLogger("cycleqd_merge").setLevel(logging.DEBUG if verbose else logging.INFO)


def print_messages_to(stream: TextIO) -> None:
    """Print log messages to this stream, instead of the one that was stderr when this package was imported."""
    _STDERR.setStream(stream)


def is_quiet() -> bool:
    """Whether only results and errors are printed."""
    return _STDERR.level >= logging.ERROR
