"""Regular expressions of tasks and rows, matched within limits: a pattern that backtracks for ever matches nothing."""

from __future__ import annotations

import re

from cycleqd_merge import bounded
from cycleqd_merge.bounded import Bounds, LimitExceeded

_BOUNDS = Bounds(seconds=1.0)


def is_found(pattern: str, text: str, full: bool = False) -> bool:
    """Whether a pattern is found in a text (with `full`: matches all of it); False if that takes too long."""
    try:
        return bounded.call(_BOUNDS, _is_found, pattern, text, full)
    except LimitExceeded:
        return False


def last_match(pattern: str, text: str) -> str | None:
    """The first group of the last match, or all of it without groups; None if none is found, or it takes too long."""
    try:
        return bounded.call(_BOUNDS, _last_match, pattern, text)
    except LimitExceeded:
        return None


def _is_found(pattern: str, text: str, full: bool) -> bool:
    return (re.fullmatch if full else re.search)(pattern, text) is not None


def _last_match(pattern: str, text: str) -> str | None:
    last = None
    for last in re.finditer(pattern, text):  # noqa: B007
        pass
    return last and last.group(1 if last.re.groups else 0)
