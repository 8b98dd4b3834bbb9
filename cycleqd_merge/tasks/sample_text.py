"""A text that a regular expression matches, to check graders with."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any


def matching_text(pattern: str, captured: str | None = None) -> str | None:
    """A short text for a pattern. captured: the text for its first group, whatever that group accepts.

    Only common constructs are understood: None means that no text was found. Whether the pattern matches the text
    remains to be checked.
    """
    try:
        parsed = re._parser.parse(pattern)  # type: ignore[attr-defined]
    except (re.error, RecursionError, OverflowError):
        return None
    try:
        return "".join(_text(parsed, captured))
    except (_UnknownError, RecursionError):
        return None


class _UnknownError(Exception):
    """A construct that has no simple text."""


_CATEGORIES = {"CATEGORY_DIGIT": "1", "CATEGORY_WORD": "a", "CATEGORY_SPACE": " ", "CATEGORY_NOT_SPACE": "a"}
_CATEGORIES |= {"CATEGORY_NOT_DIGIT": "a", "CATEGORY_NOT_WORD": "."}
_KNOWN_MEMBERS = {"CATEGORY_DIGIT": "1", "CATEGORY_WORD": "a1", "CATEGORY_SPACE": " "}
_LONGEST = 1000  # characters of a repeated part


def _text(parsed: Iterable[tuple[Any, Any]], captured: str | None) -> Iterable[str]:
    for operation, argument in parsed:
        name = str(operation)
        if name == "LITERAL":
            yield chr(argument)
        elif name == "NOT_LITERAL":
            yield "a" if argument != ord("a") else "b"
        elif name == "ANY":
            yield "a"
        elif name == "IN":
            yield _member(argument)
        elif name == "BRANCH":
            yield from _text(argument[1][0], captured)
        elif name == "SUBPATTERN":
            group, _, _, inner = argument
            if group == 1 and captured is not None:
                yield captured
            else:
                yield from _text(inner, captured)
        elif name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
            least, _, inner = argument
            contains_group = captured is not None and "SUBPATTERN, (1," in repr(inner)
            times = max(least, 1 if contains_group else 0)
            if times > _LONGEST:
                raise _UnknownError
            yield from (part for _ in range(times) for part in _text(inner, captured))
        elif name == "ATOMIC_GROUP":
            yield from _text(argument, captured)
        elif name not in ("AT", "ASSERT_NOT"):
            raise _UnknownError


def _member(members: list[tuple[Any, Any]]) -> str:
    """A character of a set."""
    first, argument = str(members[0][0]), members[0][1]
    if first == "LITERAL":
        return chr(argument)
    if first == "RANGE":
        return chr(argument[0])
    if first == "CATEGORY":
        return _CATEGORIES[str(argument)]
    for letter in "a1 .-@" if first == "NEGATE" else "":
        if not any(_contains(member, letter) for member in members[1:]):
            return letter
    raise _UnknownError


def _contains(member: tuple[Any, Any], letter: str) -> bool:
    operation, argument = str(member[0]), member[1]
    if operation == "LITERAL":
        return bool(argument == ord(letter))
    if operation == "RANGE":
        return bool(argument[0] <= ord(letter) <= argument[1])
    return letter in _KNOWN_MEMBERS.get(str(argument), letter)
