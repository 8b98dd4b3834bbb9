"""EvalPlus' problems, in both formats."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cycleqd_merge.errors import DataError
from cycleqd_merge.tasks.code.problems import read_code_problem, restore_inputs
from cycleqd_merge.tasks.code.values import unpack

JSONL = {
    "task_id": "Mbpp/2",
    "prompt": "'''\nWrite a function to find the shared elements\n'''",
    "entry_point": "similar_elements",
    "canonical_solution": "def similar_elements(a, b):\n    return tuple(set(a) & set(b))\n",
    "base_input": [[[3, 4], [5, 4]]],
    "plus_input": [[[], []], [[1], [1, 2]]],
    "atol": 0,
    "assertion": "\nassert similar_elements((3, 4), (5, 4)) == (4,)\nassert similar_elements((), ()) == ()\n",
}
HUB = {
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


def test_humanevals_solution_continues_its_prompt() -> None:
    row = {**JSONL, "task_id": "HumanEval/0", "prompt": "def f(x):\n", "canonical_solution": "    return x\n"}
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
