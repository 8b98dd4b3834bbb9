"""Comparing what a program returned with what the reference solution returns, by EvalPlus' rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cycleqd_merge.tasks.code.values import close, from_text, is_floats, unpack

_AS_SETS = {
    "similar_elements",
    "find_char_long",
    "common_in_nested_lists",
    "extract_singly",
    "larg_nnum",
    "intersection_array",
    "find_dissimilar",
    "Diff",
}
_AS_FOUND_OR_NOT = {"check_str", "text_match_three", "text_starta_endb"}
_ANY_ONE_ANSWER = {"are_equivalent": True, "sum_div": 0}
"""Functions whose tests say too little: this same answer to every input is right too."""
_SLACK = 10_000  # characters that a value's text may always have: building sets of hostile numbers takes long


_UNREADABLE = object()


def all_right(
    entry_point: str, inputs: Sequence[Any], found: Sequence[str], wanted: Sequence[str], atol: float
) -> bool:
    """Whether every text in `found` is the value that stands in the same place of `wanted`. Texts as of `to_text`."""
    if len(found) != len(wanted):
        return False
    values = [_value(text, 10 * len(right) + _SLACK) for text, right in zip(found, wanted, strict=True)]
    if _UNREADABLE in values:
        return False
    if entry_point in _ANY_ONE_ANSWER and all(value == _ANY_ONE_ANSWER[entry_point] for value in values):
        return True
    rights = [from_text(text) for text in wanted]
    return all(_right(entry_point, *triple, atol) for triple in zip(inputs, values, rights, strict=True))


def _value(text: str, longest: int) -> Any:
    """The value of a text from a box, which may be anything."""
    if len(text) > longest:
        return _UNREADABLE
    try:
        return from_text(text)
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError):
        return _UNREADABLE


def _right(entry_point: str, arguments: Any, found: Any, wanted: Any, atol: float) -> bool:
    try:
        if entry_point == "find_zero":
            coefficients = unpack(arguments[0])
            return bool(abs(sum(c * found**power for power, c in enumerate(coefficients))) <= atol)
        if entry_point in _AS_FOUND_OR_NOT and not isinstance(found, bool):
            return (found is not None) == (wanted if isinstance(wanted, bool) else wanted is not None)
        if entry_point in _AS_SETS:
            return set(found) == set(wanted)
        if found == wanted:
            return True
        atol = atol or (1e-6 if is_floats(wanted) else 0.0)
        return atol != 0 and close(found, wanted, atol)
    except (TypeError, ValueError, ArithmeticError, RecursionError):
        return False
