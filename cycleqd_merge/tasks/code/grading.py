"""Comparing a program's return values with those of the reference solution, by EvalPlus' rules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from cycleqd_merge.tasks.code.values import from_text, unpack

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
_FLOAT_ATOL = 1e-6  # where a problem has no tolerance, and floats are expected
_LARGEST = 2**64  # larger integers are not compared approximately: numpy has no type for them
_SLACK = 10_000  # length that is always allowed, in characters; longer hostile values take long to build
_ERRORS = (ValueError, TypeError, KeyError, IndexError, ArithmeticError, AttributeError, RecursionError)


def all_correct(
    task_id: str, entry_point: str, inputs: Sequence[Any], found: Sequence[str], expected: Sequence[str], atol: float
) -> bool:
    """Whether every value found equals the expected one, within `atol`.

    task_id: of a problem of MBPP or HumanEval, some of which have their own rules. found, expected: a text per input,
    as `to_text` writes it. inputs: packed arguments.
    """
    if len(found) != len(expected):
        return False
    benchmark = task_id.partition("/")[0]
    for arguments, text, wanted_text in zip(inputs, found, expected, strict=True):
        wanted = from_text(wanted_text)
        if atol == 0 and is_floats(wanted):
            atol = _FLOAT_ATOL  # of all later inputs, too, as in EvalPlus
        if is_error(text) or len(text) > 10 * len(wanted_text) + _SLACK:
            return False
        try:
            if not _is_correct(benchmark, entry_point, arguments, from_text(text), wanted, atol):
                return False
        except _ERRORS:  # of a text, which may contain anything, or of a comparison
            return False
    return True


def is_error(text: str) -> bool:
    """Whether the function raised an error, instead of returning a value."""
    return text.startswith('["error"')


def _is_correct(benchmark: str, entry_point: str, arguments: Any, found: Any, wanted: Any, atol: float) -> bool:
    if benchmark == "HumanEval" and entry_point == "find_zero":  # another root is correct, too
        coefficients = unpack(arguments[0])
        return bool(abs(sum(c * math.pow(found, power) for power, c in enumerate(coefficients))) <= atol)
    if benchmark == "Mbpp" and entry_point in _COMPARED_AS_MATCH_OR_NONE:
        return bool((found if isinstance(found, bool) else found is not None) == (wanted is not None))
    if benchmark == "Mbpp" and entry_point in _COMPARED_AS_SETS:
        return set(found) == set(wanted) or is_almost_equal(found, wanted, atol)
    if is_equal(found, wanted) or is_almost_equal(found, wanted, atol):
        return True
    return benchmark == "Mbpp" and _is_accepted(entry_point, arguments, found, atol)


def _is_accepted(entry_point: str, arguments: Any, found: Any, atol: float) -> bool:
    """Whether a value is correct although the reference returns a different one: some problems are ambiguous."""
    numbers = [unpack(argument) for argument in arguments]
    if entry_point == "sum_div":
        return bool(found == 0)
    if entry_point == "surface_Area":
        return bool(abs(found - _surface_area(*numbers)) <= atol)
    if entry_point == "digit_distance_nums":
        return bool(found == _digit_distance(*numbers))
    return entry_point == "are_equivalent"


def _surface_area(base: float, height: float) -> int:
    """Of a square pyramid whose height is meant as the distance of its apex from the base; the reference's is slant."""
    return round(base**2 + 2 * base * math.sqrt((base / 2) ** 2 + height**2))


def _digit_distance(first: int, second: int) -> int:
    """The sum of the differences of two numbers' digits, the shorter one filled up with zeros."""
    width = max(len(str(first)), len(str(second)))
    pairs = zip(str(first).zfill(width), str(second).zfill(width), strict=True)
    return sum(abs(int(left) - int(right)) for left, right in pairs)


def is_equal(found: Any, wanted: Any) -> bool:
    """Python's equality; two arrays are equal if all their elements are."""
    if isinstance(found, np.ndarray) and isinstance(wanted, np.ndarray):
        return bool(np.array_equal(found, wanted))
    return bool(found == wanted)


def is_almost_equal(found: Any, wanted: Any, atol: float) -> bool:
    """Whether two values of the same type are equal within `atol`, which is not 0."""
    if atol == 0 or type(found) is not type(wanted):
        return False
    if isinstance(found, np.ndarray):
        same = found.shape == wanted.shape
        return same and all(
            close(*pair, atol) for pair in zip(found.ravel().tolist(), wanted.ravel().tolist(), strict=True)
        )
    return close(found, wanted, atol)


def is_floats(value: Any) -> bool:
    """Whether a value is a float, or a list, tuple or array of floats only."""
    if isinstance(value, np.ndarray):
        return value.dtype in (np.float64, np.float32)
    if isinstance(value, list | tuple):
        return bool(value) and all(isinstance(item, float) for item in value)
    return isinstance(value, float)


def close(found: Any, wanted: Any, atol: float, rtol: float = 1e-7) -> bool:
    """Whether two values are equal up to small differences of their numbers, as in numpy's `allclose`."""
    if isinstance(wanted, list | tuple):
        same = isinstance(found, list | tuple) and len(found) == len(wanted)
        return same and all(close(*pair, atol, rtol) for pair in zip(found, wanted, strict=True))
    found = found.item() if isinstance(found, np.generic) else found
    wanted = wanted.item() if isinstance(wanted, np.generic) else wanted
    if not isinstance(wanted, int | float | complex) or not isinstance(found, int | float | complex | Fraction):
        return False
    if type(wanted) is int and not -_LARGEST < wanted < _LARGEST:
        return False
    numbers: tuple[Any, Any] = (found, wanted)  # a fraction and a complex number have no common type
    difference, size = abs(numbers[0] - numbers[1]), abs(numbers[1])
    return bool(found == wanted or (math.isfinite(size) and difference <= atol + rtol * size))
