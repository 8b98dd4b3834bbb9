"""Regular expressions of tasks and rows, matched within limits: a pattern that backtracks for ever matches nothing.

That a limit was exceeded is recorded with the sample's outcome.
"""

from __future__ import annotations

import re
from typing import Any

from cycleqd_merge import bounded
from cycleqd_merge.bounded import Bounds, LimitExceeded
from cycleqd_merge.tasks.limits import note_limit

_BOUNDS = Bounds(seconds=1.0)
_WHAT = "a regular expression"


def is_found(pattern: str, text: str, full: bool = False) -> bool:
    """Whether a pattern is found in a text (with `full`: matches all of it); False if that takes too long."""
    try:
        return bounded.call(_BOUNDS, _is_found, pattern, text, full)
    except LimitExceeded as error:
        note_limit(_WHAT, error)
        return False


def last_match(pattern: str, text: str) -> str | None:
    """The first group of the last match, or all of it without groups; None if none is found, or it takes too long."""
    try:
        return bounded.call(_BOUNDS, _last_match, pattern, text)
    except LimitExceeded as error:
        note_limit(_WHAT, error)
        return None


def find_all(pattern: str, flags: int, text: str) -> list[str | tuple[str, ...]]:
    """`re.findall`; empty if that takes too long."""
    try:
        found = bounded.call(_BOUNDS, _find_all, pattern, flags, text)
    except LimitExceeded as error:
        note_limit(_WHAT, error)
        return []
    return [tuple(each) if isinstance(each, list) else each for each in found]


def _is_found(pattern: str, text: str, full: bool) -> bool:
    return (re.fullmatch if full else re.search)(pattern, text) is not None


def _last_match(pattern: str, text: str) -> str | None:
    last = None
    for last in re.finditer(pattern, text):  # noqa: B007
        pass
    return last and last.group(1 if last.re.groups else 0)


def _find_all(pattern: str, flags: int, text: str) -> list[Any]:
    return re.findall(pattern, text, flags)
