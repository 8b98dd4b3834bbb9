"""EvalPlus' problems, in both formats."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from cycleqd_merge.errors import DataError
from cycleqd_merge.tasks.code.problems import read_code_problem, restore_inputs
from cycleqd_merge.tasks.code.values import unpack
from tests.components import DATA

JSONL: dict[str, Any] = {
    "task_id": "Mbpp/2",
    "prompt": "'''\nWrite a function to find the shared elements\n'''",
    "entry_point": "similar_elements",
    "canonical_solution": "def similar_elements(a, b):\n    return tuple(set(a) & set(b))\n",
    "base_input": [[[3, 4], [5, 4]]],
    "plus_input": [[[], []], [[1], [1, 2]]],
    "atol": 0,
    "assertion": "\nassert similar_elements((3, 4), (5, 4)) == (4,)\nassert similar_elements((), ()) == ()\n",
}
HUB: dict[str, Any] = {
    "task_id": 2,
    "code": JSONL["canonical_solution"],
    "prompt": "Write a function to find the shared elements",
    "source_file": "x",
    "test_imports": [],
    "test_list": ["assert similar_elements((3, 4), (5, 4)) == (4,)"],
    "test": "import numpy as np\nfrom math import inf\n\ndef assertion(out, exp, atol):\n    assert out == exp\n\n"
    "inputs = [[(3, 4), (5, 4)], [(), ()], [(1,), (1, inf)]]\nresults = [(4,), (), (1,)]\n"
    "for i, (inp, exp) in enumerate(zip(inputs, results)):\n    assertion(similar_elements(*inp), exp, 0.5)\n",
}


def inputs(packed: list[Any]) -> list[list[Any]]:
    return [[unpack(argument) for argument in arguments] for arguments in packed]


def test_a_row_in_the_file_format() -> None:
    problem = read_code_problem(JSONL)
    assert (problem.task_id, problem.entry_point, problem.atol) == ("Mbpp/2", "similar_elements", 0.0)
    assert problem.instruction == "Write a function to find the shared elements."
    assert problem.assertion == "assert similar_elements((3, 4), (5, 4)) == (4,)"
    assert inputs(problem.base_inputs) == [[(3, 4), (5, 4)]]
    assert inputs(problem.plus_inputs) == [[(), ()], [(1,), (1, 2)]]


def test_a_row_in_the_hub_format_is_read_and_never_executed() -> None:
    problem = read_code_problem({**HUB, "test": "raise SystemExit\n" + HUB["test"]})
    assert (problem.task_id, problem.entry_point, problem.atol) == ("Mbpp/2", "similar_elements", 0.5)
    assert problem.instruction == read_code_problem(JSONL).instruction
    assert problem.assertion == read_code_problem(JSONL).assertion
    assert inputs(problem.base_inputs) == [[(3, 4), (5, 4)]]
    assert inputs(problem.plus_inputs) == [[(), ()], [(1,), (1, float("inf"))]]


HUB_INPUTS = [
    [[(3, 4), [5]], [{"a": (1, 2)}, {1, 2}]],
    [[set(), frozenset()], [1 + 2j, -1.5e-7]],
    [[float("inf"), -float("inf")], [b"ab", None]],
    [["text\n'quoted'", 'x"y'], [True, 10**30]],
]


@pytest.mark.parametrize("given", HUB_INPUTS, ids=str)
def test_literals_of_every_type_are_read(given: list[Any]) -> None:
    """As EvalPlus writes them: the representation of a list."""
    text = repr(given).replace("frozenset()", "()")
    test = f"from math import inf\n\ninputs = {text}\nresults = {text}\n"
    test += "for i, (inp, exp) in enumerate(zip(inputs, results)):\n    assertion(similar_elements(*inp), exp, 1e-6)\n"
    problem = read_code_problem({**HUB, "test": test, "test_imports": ["import numpy as np", "import math"]})
    assert repr(inputs([*problem.base_inputs, *problem.plus_inputs])) == text
    assert problem.atol == 1e-6


def test_integers_of_thousands_of_digits_are_read() -> None:
    digits = "9" * 6000
    test = f"inputs = [[{digits}]]\nresults = [{digits}]\nassertion(similar_elements(*inp), exp, 0)\n"
    problem = read_code_problem({**HUB, "test": test, "test_list": []})
    assert inputs(problem.plus_inputs) == [[10**6000 - 1]]
    assert sys.get_int_max_str_digits() > 0


CROSSCHECK = """
import numpy as np

def assertion(out, exp, atol):
    assert out == exp

def ref_func(a, b):
    inputs = sorted(a)
    return tuple(set(inputs) & set(b))

inputs = [[(3, 4), (5, 4)], [(), ()]]
for i, inp in enumerate(inputs):
    assertion(similar_elements(*inp), ref_func(*inp), 0)
"""


@pytest.mark.parametrize(
    "test",
    [
        CROSSCHECK,
        CROSSCHECK.replace("similar_elements(", "candidate("),
        CROSSCHECK.replace("ref_func(*inp), 0)", "ref_func(*inp), 0, inp)"),
    ],
    ids=["large results", "candidate", "a rule of its own"],
)
def test_other_forms_of_the_test_script(test: str) -> None:
    problem = read_code_problem({**HUB, "test": test})
    assert (problem.entry_point, problem.atol, len(problem.base_inputs)) == ("similar_elements", 0.0, 1)
    assert inputs(problem.plus_inputs) == [[(), ()]]


def test_a_repeated_test_is_one_input() -> None:
    problem = read_code_problem({**HUB, "test_list": HUB["test_list"] * 2})
    assert (len(problem.base_inputs), len(problem.plus_inputs)) == (1, 2)


@pytest.mark.needs("published data")
def test_all_problems_of_the_benchmark_are_read_in_both_formats() -> None:
    """The rows of the Hub's dataset have the same inputs, as literals in a script, each of them once."""
    for line in (DATA / "MbppPlus-2023-11-16.jsonl").read_text().splitlines():
        row = json.loads(line)
        from_file = read_code_problem(row)
        given = [
            arguments for key in ("base_input", "plus_input") for arguments in restore_inputs(row["task_id"], row[key])
        ]
        unique = list({repr(list(arguments)): arguments for arguments in given}.values())
        test = f"from math import inf\ninputs = {[list(arguments) for arguments in unique]}\n"
        test += f"for i, inp in enumerate(inputs):\n    assertion({row['entry_point']}(*inp), None, {row['atol']})\n"
        problem = read_code_problem(
            {**HUB, "task_id": int(row["task_id"][5:]), "code": row["canonical_solution"], "test": test}
        )
        assert (problem.task_id, problem.entry_point, problem.atol) == (row["task_id"], row["entry_point"], row["atol"])
        found = inputs([*problem.base_inputs, *problem.plus_inputs])
        assert found == [list(arguments) for arguments in unique]
        assert problem.solution == from_file.solution


def test_humanevals_solution_continues_its_prompt() -> None:
    row = {**JSONL, "task_id": "HumanEval/0", "entry_point": "f", "prompt": "def f(x):\n"}
    row["canonical_solution"] = "    return x\n"
    assert read_code_problem(row).solution == "def f(x):\n    return x\n"
    hub = {
        "task_id": "HumanEval/0",
        "prompt": "def f(x):\n",
        "canonical_solution": "    return x\n",
        "entry_point": "f",
        "test": "def check(candidate):\n    inputs = [[1]]\n    results = [1]\n"
        "    for i, (inp, exp) in enumerate(zip(inputs, results)):\n        assertion(candidate(*inp), exp, 0)\n",
    }
    problem = read_code_problem(hub)
    assert (problem.entry_point, problem.solution, inputs(problem.plus_inputs)) == (
        "f",
        row["prompt"] + "    return x\n",
        [[1]],
    )
    assert problem.base_inputs == []


@pytest.mark.parametrize(
    ("number", "stored", "meant"),
    [
        (1, [[1, [2]]], [[1, [2]]]),
        (63, [[[[1, 2]]]], [[[(1, 2)]]]),
        (75, [[[[1], [2]], 3]], [[[(1,), (2,)], 3]]),
        (106, [[[1], [2]]], [[[1], (2,)]]),
        (115, [[[[1, 2], []]]], [[[{1, 2}, {}]]]),
        (124, [["1", "2j"]], [[1.0, 2j]]),
        (252, [["1+2j"]], [[1 + 2j]]),
        (259, [[[[1, 2], [3, 4]], [[5, 6]]]], [[((1, 2), (3, 4)), ((5, 6),)]]),
        (278, [[[1, [2], 3]]], [[(1, (2,), 3)]]),
        (307, [[[1], 2, 3]], [[(1,), 2, 3]]),
        (580, [[[1, [2, [3, [4]]]]]], [[(1, (2, (3, (4,))))]]),
        (722, [[{"a": [1, 2]}, 3]], [[{"a": (1, 2)}, 3]]),
    ],
)
def test_types_that_json_lacks_are_restored(number: int, stored: list[Any], meant: list[Any]) -> None:
    assert list(restore_inputs(f"Mbpp/{number}", json.loads(json.dumps(stored)))) == meant


@pytest.mark.parametrize("row", [{"q": 1}, {**JSONL, "atol": None}, {**HUB, "test": "x ="}, {**HUB, "test": "pass"}])
def test_other_rows_are_refused(row: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="not a problem in EvalPlus' format"):
        read_code_problem(row)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"prompt": None}, "prompt is None, not text"),
        ({"canonical_solution": None}, "canonical_solution is None, not text"),
        ({"canonical_solution": "def f(x:\n"}, "its solution is not Python: '(' was never closed in line 1"),
        ({"canonical_solution": "def g(x):\n    return x"}, "its solution does not define similar_elements"),
        ({"entry_point": 5}, "its entry point is 5, not the name of a function"),
        ({"entry_point": ""}, "its entry point is '', not the name of a function"),
        ({"base_input": "[[1]]"}, "base_input is not a list that has a list of arguments for every call"),
        ({"base_input": [1, 2]}, "base_input is not a list that has"),
        ({"plus_input": [{"a": 1}]}, "plus_input is not a list that has"),
        ({"base_input": [], "plus_input": None}, "it has no inputs, so that every answer would be correct"),
        ({"atol": "small"}, "atol is 'small', not a number"),
    ],
)
def test_a_row_that_cannot_be_graded_says_why(changed: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError) as raised:
        read_code_problem({**JSONL, **changed})
    assert str(raised.value).startswith(f"not a problem in EvalPlus' format: {reason}")


def test_ids_like_those_of_mbpp_may_have_no_number() -> None:
    assert read_code_problem({**JSONL, "task_id": "Mbpp/mine"}).base_inputs
