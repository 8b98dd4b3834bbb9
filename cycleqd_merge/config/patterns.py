"""Regular expressions that are checked within limits: compiling one can take minutes."""

from __future__ import annotations

import re
from functools import lru_cache

from cycleqd_merge.bounded import Bounds, LimitExceeded, call

_BOUNDS = Bounds(seconds=1.0)
_SIMPLE = 200  # characters of an expression that compiles at once, unless it ignores case
_IGNORES_CASE = re.compile(r"\(\?[A-Za-z]*i")


@lru_cache
def pattern_problem(pattern: str) -> str | None:
    """Why a text is not a regular expression in Python's syntax; None if it is one."""
    if len(pattern) <= _SIMPLE and not _IGNORES_CASE.search(pattern):
        return _problem(pattern)
    try:
        return call(_BOUNDS, _problem, pattern)
    except LimitExceeded as error:
        return f"it {error} when it is compiled; simplify it"


def _problem(pattern: str) -> str | None:
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        return str(error)
    return None
