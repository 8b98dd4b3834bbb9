"""EvalPlus' problems, read from its own files (inputs as JSON) or its Hub datasets (inputs as Python literals)."""

from __future__ import annotations

import ast
import re
import symtable
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cycleqd_merge.errors import DataError, first_line
from cycleqd_merge.tasks.code.values import pack

ANY = None  # step of a path: every element
_TUPLES: dict[tuple[int, ...], list[tuple[int | None, ...]]] = {
    (2, 116, 132, 143, 222, 261, 273, 394, 399, 421, 424, 429, 470, 560, 579, 596, 616, 630, 726, 740, 744, 809): [
        (ANY,)
    ],
    (63, 64, 70, 94, 120, 237, 272, 299, 400, 409, 417, 438, 473, 614, 780): [(ANY, ANY)],
    (75, 413, 444, 753): [(0, ANY)],
    (106, 750): [(1,)],
    (250, 307, 405, 446, 617, 720, 763, 808): [(0,)],
    (259, 401, 445): [(ANY,), (ANY, ANY)],
    (278,): [(0,), (0, ANY)],
    (580, 615, 791): [(ANY,) * depth for depth in range(1, 65)],
    (722,): [(0, ANY)],
}
"""Numbers of MBPP problems whose inputs contain tuples, which JSON lacks -> paths to the tuples, as in EvalPlus."""


@dataclass(frozen=True)
class CodeProblem:
    """A function to write.

    base_inputs, plus_inputs: lists of arguments, packed (see `pack`). solution: a complete, correct program. atol:
    absolute tolerance of floats.
    """

    task_id: str
    entry_point: str
    prompt: str
    instruction: str
    assertion: str
    solution: str
    base_inputs: list[Any]
    plus_inputs: list[Any]
    atol: float

    @property
    def columns(self) -> dict[str, str]:
        """The columns that a prompt template can use."""
        return {name: getattr(self, name) for name in ("entry_point", "prompt", "instruction", "assertion")}


def read_code_problem(row: Mapping[str, Any]) -> CodeProblem:
    """A problem from a row of EvalPlus' JSONL files, or of its datasets on the Hub.

    Raises:
        DataError: the row is neither.
    """
    try:
        problem = _from_jsonl(row) if "base_input" in row else _from_hub(row)
        _require_gradable(problem)
    except (KeyError, TypeError, ValueError, SyntaxError, IndexError) as error:
        reason = f"no column {error}" if isinstance(error, KeyError) else first_line(error)
        raise DataError(f"not a problem in EvalPlus' format: {reason}; its columns are {', '.join(row)}") from error
    return problem


def _require_gradable(problem: CodeProblem) -> None:
    """Raise ValueError if no answer can be right, or every answer would be."""
    name = problem.entry_point
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(f"its entry point is {name!r}, not the name of a function")
    try:
        names = {symbol.get_name() for symbol in symtable.symtable(problem.solution, "solution", "exec").get_symbols()}
    except SyntaxError as error:
        raise ValueError(f"its solution is not Python: {error.msg} in line {error.lineno}") from None
    if name not in names:
        raise ValueError(f"its solution does not define {name}")
    if not problem.base_inputs and not problem.plus_inputs:
        raise ValueError("it has no inputs, so that every answer would be correct")


def _from_jsonl(row: Mapping[str, Any]) -> CodeProblem:
    task_id, prompt = str(row["task_id"]), row["prompt"]
    for column in ("prompt", "canonical_solution"):
        if not isinstance(row[column], str):
            raise ValueError(f"{column} is {row[column]!r}, not text")
    base, plus = (restore_inputs(task_id, _inputs(row, key)) for key in ("base_input", "plus_input"))
    is_function = task_id.startswith("HumanEval")  # the prompt is the function's head, the solution its body
    solution = prompt + row["canonical_solution"] if is_function else row["canonical_solution"]
    instruction, assertions = _split_prompt(prompt + "\n" + str(row.get("assertion") or ""))
    return CodeProblem(
        task_id=task_id,
        entry_point=row["entry_point"],
        prompt=prompt,
        instruction=instruction,
        assertion=assertions,
        solution=solution,
        base_inputs=[pack(arguments)[1] for arguments in base],
        plus_inputs=[pack(arguments)[1] for arguments in plus],
        atol=_tolerance(row["atol"]),
    )


def _inputs(row: Mapping[str, Any], key: str) -> list[list[Any]]:
    inputs = row[key] or []
    if not isinstance(inputs, list) or not all(isinstance(arguments, list) for arguments in inputs):
        raise ValueError(f"{key} is not a list that has a list of arguments for every call")
    return inputs


def _tolerance(value: Any) -> float:
    if not isinstance(value, int | float):
        raise ValueError(f"atol is {value!r}, not a number")
    return float(value)


def _split_prompt(prompt: str) -> tuple[str, str]:
    """An MBPP prompt as its sentence, ended by a full stop, and its first assertion."""
    text = prompt.replace('"""', "").replace("'''", "")
    sentence, *asserted = re.split(r"^(?=assert\b)", text, flags=re.M)
    sentence = sentence.strip()
    first = asserted[0].strip() if asserted else ""
    return sentence if sentence.endswith(".") else f"{sentence}.", first


def restore_inputs(task_id: str, inputs: Sequence[Any]) -> Sequence[Any]:
    """Inputs as the functions take them: JSON has turned tuples and sets into lists, and complex numbers into text."""
    kind, _, number = task_id.rpartition("/")
    if kind != "Mbpp" or not number.isdecimal():
        return inputs
    if number == "115":
        return [[[set(item) if isinstance(item, list) and item else {} for item in i[0]]] for i in inputs]
    if number == "124":
        return [[float(i[0]), complex(i[1])] for i in inputs]
    if number == "252":
        return [[complex(i[0])] for i in inputs]
    paths = next((paths for numbers, paths in _TUPLES.items() if int(number) in numbers), [])
    for path in reversed(paths):  # innermost first: elements of a tuple are not visited again
        inputs = [_tuple_at(arguments, path) for arguments in inputs]
    return inputs


def _tuple_at(value: Any, path: Sequence[int | None]) -> Any:
    if not path:
        return tuple(value) if isinstance(value, list) else value
    step, rest = path[0], path[1:]
    if isinstance(value, dict):
        return {key: _tuple_at(item, rest) for key, item in value.items()}
    if not isinstance(value, list):
        return value
    return [_tuple_at(item, rest) if step in (ANY, place) else item for place, item in enumerate(value)]


def _from_hub(row: Mapping[str, Any]) -> CodeProblem:
    """The datasets have a test script: its literals are read, the script is never executed."""
    with _integers_of_any_length():
        tree = ast.parse(row["test"])
        inputs = next(_assigned_literals(tree, "inputs"), None)
        if inputs is None:
            raise ValueError("its test script has no inputs")
        packed = [pack(list(arguments))[1] for arguments in inputs]
    called, atol = _assertion(tree)
    tests = list(row.get("test_list") or [])
    base = len(set(tests))  # they are the first inputs, each of them once
    solution = row["code"] if "code" in row else row["prompt"] + row["canonical_solution"]
    instruction, assertion = _split_prompt("\n".join([row["prompt"], *tests[:1]]))
    task_id = str(row["task_id"])
    return CodeProblem(
        task_id=task_id if "/" in task_id else f"Mbpp/{task_id}",
        entry_point=row.get("entry_point") or _function_under_test(called, solution, tests),
        prompt=row["prompt"],
        instruction=instruction,
        assertion=assertion,
        solution=solution,
        base_inputs=packed[:base],
        plus_inputs=packed[base:],
        atol=atol,
    )


@contextmanager
def _integers_of_any_length() -> Iterator[None]:
    """Lifts Python's limit on the digits of an integer: inputs and results of some problems have thousands."""
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        yield
    finally:
        sys.set_int_max_str_digits(limit)


def _function_under_test(called: str, solution: str, tests: Sequence[str]) -> str:
    """The function that a test script calls; if it names it `candidate`, the solution's that the first test calls."""
    defined = [node.name for node in ast.parse(solution).body if isinstance(node, ast.FunctionDef)]
    if called in defined or not defined:
        return called
    words = re.findall(r"\w+", tests[0]) if tests else []
    return next((word for word in words if word in defined), defined[-1])


def _assigned_literals(tree: ast.Module, name: str) -> Iterator[Any]:
    """The literals assigned to a name, anywhere in the script."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            yield ast.literal_eval(_InfinityAndNan().visit(node.value))


class _InfinityAndNan(ast.NodeTransformer):
    """Replaces `inf` and `nan`, which the scripts import, by literals."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """See the class."""
        return ast.Constant(float(node.id)) if node.id in ("inf", "nan") else node


def _assertion(tree: ast.Module) -> tuple[str, float]:
    """The function under test and its tolerance, from the script's call `assertion(f(*inp), exp, atol)`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "assertion":
            call, atol = node.args[0], node.args[2]
            if not isinstance(call, ast.Call):
                continue
            parts = [part.id for part in ast.walk(call) if isinstance(part, ast.Name) and part.id not in ("inp", "exp")]
            return parts[-1], float(ast.literal_eval(atol))
    raise ValueError("its test script has no assertion")
