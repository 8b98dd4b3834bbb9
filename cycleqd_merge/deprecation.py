"""Warnings about deprecated names; docs/compatibility.md has the rules."""

from __future__ import annotations

import logging
import warnings

log = logging.getLogger(__name__)


def warn_deprecated(name: str, replacement: str, removed_in: str, where: str) -> None:
    """Warn in the log, for users of the command line, and as a `DeprecationWarning`, for programs.

    where: the file, line, class or task that uses the name. removed_in: the release without it.
    """
    message = f"{where}: `{name}` is deprecated and will be removed in {removed_in}; use `{replacement}`"
    log.warning("%s", message)
    warnings.warn(message, DeprecationWarning, stacklevel=3)
