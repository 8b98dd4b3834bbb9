"""How much the command line prints: `--quiet`, `--verbose` and `--debug`, which are levels of the package's logger."""

from __future__ import annotations

import logging

OPTIONS = ("--quiet", "--verbose", "--debug")
"""Accepted before and after the command."""

_PACKAGE = logging.getLogger("cycleqd_merge")


def set_verbosity(quiet: bool, verbose: bool) -> None:
    """Print errors only, or debug messages too; by default notices and warnings."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    _PACKAGE.setLevel(logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO)


def is_quiet() -> bool:
    """Whether only results and errors are printed."""
    return not _PACKAGE.isEnabledFor(logging.WARNING)
