"""Comparing a program's return values with those of the reference solution, by EvalPlus' rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cycleqd_merge.tasks.code.values import close, from_text, is_floats, unpack

_COMPARED_AS_SETS = {
    "similar_elements",
    "find_char_long",
    "common_in_nested_lists",
    "extract_singly",
    "larg_nnum",
    "intersection_array",
    "find_dissimilar",
    "Diff",
}
_COMPARED_AS_MATCH_OR_NONE = {"check_str", "text_match_three", "text_starta_endb"}
_CONSTANT_ANSWERS = {"are_equivalent": True, "sum_div": 0}
"""Functions with weak tests: returning this value for every input counts as correct, too."""
_SLACK = 10_000  # length that is always allowed, in characters; longer hostile values take long to build

_UNREADABLE = object()


def all_correct(
    entry_point: str, inputs: Sequence[Any], found: Sequence[str], expected: Sequence[str], atol: float
) -> bool:
    """Whether every value found equals the expected one, within `atol`.

    found, expected: a text per input, as `to_text` writes it. inputs: packed arguments.
    """
    if len(found) != len(expected):
        return False
    values = [_value(text, 10 * len(right) + _SLACK) for text, right in zip(found, expected, strict=True)]
    if _UNREADABLE in values:
        return False
    if entry_point in _CONSTANT_ANSWERS and all(value == _CONSTANT_ANSWERS[entry_point] for value in values):
        return True
    wanted = [from_text(text) for text in expected]
    return all(_is_correct(entry_point, *triple, atol) for triple in zip(inputs, values, wanted, strict=True))


def _value(text: str, longest: int) -> Any:
    """The value of a text from a box, which may contain anything. longest: length limit, in characters."""
    if len(text) > longest:
        return _UNREADABLE
    try:
        return from_text(text)
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError):
        return _UNREADABLE


def _is_correct(entry_point: str, arguments: Any, found: Any, wanted: Any, atol: float) -> bool:
    try:
        if entry_point == "find_zero":
            coefficients = unpack(arguments[0])
            return bool(abs(sum(c * found**power for power, c in enumerate(coefficients))) <= atol)
        if entry_point in _COMPARED_AS_MATCH_OR_NONE and not isinstance(found, bool):
            return (found is not None) == (wanted if isinstance(wanted, bool) else wanted is not None)
        if entry_point in _COMPARED_AS_SETS:
            return set(found) == set(wanted)
        if found == wanted:
            return True
        atol = atol or (1e-6 if is_floats(wanted) else 0.0)
        return atol != 0 and close(found, wanted, atol)
    except (TypeError, ValueError, ArithmeticError, RecursionError):
        return False
