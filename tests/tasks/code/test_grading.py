"""Comparing values: plain equality, and EvalPlus' exceptions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cycleqd_merge.tasks.code.grading import all_correct, close
from cycleqd_merge.tasks.code.values import from_text, pack, to_text


def correct(
    found: Any,
    wanted: Any,
    entry_point: str = "f",
    atol: float = 0.0,
    arguments: tuple[Any, ...] = (),
    task_id: str = "Mbpp/1",
) -> bool:
    return all_correct(task_id, entry_point, [pack(list(arguments))[1]], [to_text(found)], [to_text(wanted)], atol)


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
hashable = st.recursive(scalars, lambda inner: st.tuples(inner, inner) | st.frozensets(inner))
values = st.recursive(
    scalars | st.complex_numbers(allow_nan=False),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.sets(hashable) | st.dictionaries(hashable, inner),
)


@given(values)
def test_plain_values_are_packed_and_unpacked_unchanged(value: Any) -> None:
    back = from_text(to_text(value))
    assert back == value
    assert type(back) is type(value)
    assert correct(value, value)


@pytest.mark.parametrize(
    ("found", "wanted", "same"),
    [
        ([1, 2], (1, 2), False),
        (1.0, 1, True),
        (True, 1, True),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ({2, 1}, {1, 2}, True),
        (0.1 + 0.2, 0.3, True),
        ([0.1 + 0.2], [0.3], True),
        ((0.1 + 0.2,), [0.3], False),
        (0.31, 0.3, False),
        ([1.0, 2.0], [1.0], False),
        (math.inf, math.inf, True),
        ("1", 1, False),
        (None, 0, False),
    ],
)
def test_equality_is_pythons_except_for_floats(found: Any, wanted: Any, same: bool) -> None:
    assert correct(found, wanted) is same


@given(st.floats(-10, 10), st.floats(-1e-3, 1e-3), st.sampled_from([1e-4, 1e-6]))
def test_closeness_is_numpys(wanted: float, difference: float, atol: float) -> None:
    assert close(wanted + difference, wanted, atol) is bool(np.allclose(wanted + difference, wanted, 1e-7, atol))


def test_some_functions_have_their_own_rules() -> None:
    assert correct([3, 1, 3], [1, 3], "similar_elements")
    assert not correct([3, 1], [1, 2], "similar_elements")
    assert correct("anything", "match", "check_str")
    assert correct(True, True, "check_str")
    assert not correct(None, "match", "check_str")
    assert correct(2.0000001, 2.0, "find_zero", 1e-4, ([-2.0, 1.0],), "HumanEval/32")
    assert correct(-1.0, 1.0, "find_zero", 1e-4, ([-1.0, 0.0, 1.0],), "HumanEval/32")  # another root is a root too
    assert not correct(2.0, 1.0, "find_zero", 1e-4, ([-1.0, 0.0, 1.0],), "HumanEval/32")


def test_numbers_of_any_length_are_compared() -> None:
    assert correct(10**5000, 10**5000)
    assert not correct(10**5000, 10**5000 + 1)


def test_values_that_are_not_data_equal_nothing() -> None:
    assert not correct(object(), object())
    assert not correct(iter([1]), iter([1]))


def test_large_values_are_compared_by_their_digests() -> None:
    value = [(n, n + 0.5) for n in range(100_000)]
    assert len(to_text(value)) < 200
    assert correct(value, list(value))
    assert not correct(value, [*value[:-1], (0, 0.5)])


NONSENSE = ["", "nonsense", "[", '["int"]', '["int", "0y"]', '["list", 5]', '["dict", [[1]]]', '["nokind", 1]']
NONSENSE += ['["set", [["list", []]]]', '["complex", 1]', "[]", "[" * 100_000, f'["int", "0x{"f" * 100_000}"]']


@pytest.mark.parametrize("text", NONSENSE, ids=lambda text: text[:20])
def test_invalid_texts_are_wrong(text: str) -> None:
    assert not all_correct("Mbpp/1", "f", [[]], [text], [to_text(1)], 0.0)
