"""The patterns of an adapter's configuration, matched as peft does, but within limits: they are regular expressions."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, TypeVar

from cycleqd_merge.bounded import Bounds, LimitExceeded, call
from cycleqd_merge.errors import ModelError

_T = TypeVar("_T")
_BOUNDS, _WITH_PEFT = Bounds(seconds=2.0), Bounds(seconds=60.0, memory=4 * 2**30)
"""For a pattern; and for all of them, matched by peft, whose import alone takes seconds."""
_too_slow = set[str]()
"""Patterns that exceeded their limit: they are asked for again for every tensor."""
_PLAIN = re.compile(r"[\w.-]*")
"""Names: as regular expressions they never backtrack for long."""
_TARGETS = ("target_modules", "exclude_modules", "modules_to_save", "layers_pattern")
_OTHERS = ("target_parameters", "layers_to_transform")


@lru_cache(maxsize=2**16)  # asked for every tensor of every child
def pattern_key(patterns: tuple[str, ...], module: str) -> str:
    """The first of an adapter's patterns that matches a module's name; the name itself if none does.

    Raises:
        ModelError: a pattern is not valid, or takes too long to match.
    """
    return _matched(patterns, _BOUNDS, _pattern_key, patterns, module)


def is_target(config: Any, module: str) -> bool:
    """Whether the adapter of a peft configuration targets a module.

    Raises:
        ModelError: a pattern is not valid, or takes too long to match.
    """
    stated = {name: _as_list(getattr(config, name, None)) for name in (*_TARGETS, *_OTHERS)}
    values = [stated[name] for name in _TARGETS]
    patterns = [each for value in values for each in (value if isinstance(value, list) else [value]) if each]
    return _matched(patterns, _WITH_PEFT, _is_target, stated, module)


def _matched(patterns: Sequence[Any], bounds: Bounds, function: Callable[..., tuple[str, _T]], *arguments: Any) -> _T:
    """What `function` finds, in a child process unless all patterns are plain names."""
    key = repr(patterns)
    try:
        if all(isinstance(each, str) and _PLAIN.fullmatch(each) for each in patterns):
            problem, found = function(*arguments)
        elif key in _too_slow:
            raise LimitExceeded("exceeded the limit of CPU time")
        else:
            problem, found = call(bounds, function, *arguments)
    except LimitExceeded as error:
        _too_slow.add(key)
        raise ModelError(f"adapter_config.json: matching its patterns {error}; simplify them") from error
    if problem:
        raise ModelError(f"adapter_config.json: a pattern is not a regular expression: {problem}")
    return found


def _pattern_key(patterns: Sequence[str], module: str) -> tuple[str, str]:
    """As peft's `get_pattern_key`."""
    try:
        return "", next((each for each in patterns if re.match(rf"(.*\.)?({each})$", module)), module)
    except (re.error, OverflowError) as error:
        return str(error) or "not valid", ""


def _is_target(stated: Mapping[str, Any], module: str) -> tuple[str, bool]:
    from peft.tuners.tuners_utils import check_target_module_exists

    try:
        return "", bool(check_target_module_exists(SimpleNamespace(**stated), module))
    except (re.error, OverflowError) as error:
        return str(error) or "not valid", False


def _as_list(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else value
