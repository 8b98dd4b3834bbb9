"""Answers to MBPP+ problems, each from a seed: a mutated solution in the wrapping of a chat model.

Standard library only: EvalPlus' environment runs this file too, see `make_evalplus_verdicts.py`.
"""

from __future__ import annotations

import ast
import hashlib
import random
from collections.abc import Callable, Sequence
from typing import Any

WRAPPINGS = (
    "{}",
    "```python\n{}\n```",
    "```\n{}\n```",
    "Here is the function that you asked for:\n\n```python\n{}\n```\n\nIt loops over its input, once.",
    "Sure! I'd solve it like this:\n\n{}\n\nLet me know if it doesn't help.",
    "```python\n{}\n\nprint('done')\n```",
    "Two steps are needed: read the input; then compute.\n```py\n{}\n```",
)
"""Forms of an answer from which both extract the same program; `test_extract.py` compares others."""

_RETURNS = (
    "[X]",
    "str(X)",
    "list(X)",
    "tuple(X)",
    "set(X)",
    "dict.fromkeys(X).keys()",
    "iter(X)",
    "float(X)",
    "int(X)",
    "bool(X)",
    "X + 1e-9",
    "X + 1",
    "X * (1 + 1e-8)",
    "None",
    "X or None",
    "__import__('numpy').asarray(X)",
    "__import__('numpy').float64(X)",
    "__import__('fractions').Fraction(X)",
    "__import__('decimal').Decimal(X)",
    "__import__('collections').deque(X)",
    "__import__('collections').Counter(X)",
    "type('Text', (str,), {})(X)",
    "(lambda: X)",
)
"""What replaces a returned value X: other types, other values, and almost the same ones."""
_SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.FloorDiv,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.FloorDiv,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


def stub(entry_point: str) -> str:
    return f"```python\ndef {entry_point}(*arguments):\n    pass\n```"


def answer_of(solutions: Sequence[tuple[str, str]], seed: int) -> tuple[str, str]:
    """A task id, and a mutated answer to it. solutions: pairs of a task id and a correct program."""
    draw = random.Random(seed)
    task_id, solution = solutions[draw.randrange(len(solutions))]
    return task_id, WRAPPINGS[seed % len(WRAPPINGS)].format(mutated(solution, draw))


def mutated(program: str, draw: random.Random) -> str:
    """A program with one change."""
    tree = ast.parse(program)
    changes: dict[str, list[Callable[[], object]]] = {}
    for node in ast.walk(tree):
        for kind, change in _changes(node, draw):
            changes.setdefault(kind, []).append(change)
    draw.choice(changes[draw.choice(sorted(changes))])()
    return ast.unparse(ast.fix_missing_locations(tree))


def _changes(node: ast.AST, draw: random.Random) -> list[tuple[str, Callable[[], object]]]:
    """The changes that can be made at a node, each with its kind."""
    found: list[tuple[str, Callable[[], object]]] = []
    field = "ops" if isinstance(node, ast.Compare) else "op"
    operators: list[Any] = list(node.ops if isinstance(node, ast.Compare) else [getattr(node, "op", None)])
    first, *others = operators
    if type(first) in _SWAPPED:
        other = _SWAPPED[type(first)]()
        found.append(("operator", lambda: setattr(node, field, [other, *others] if field == "ops" else other)))
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float | str):
        found.append(("constant", lambda: setattr(node, "value", _changed(node.value, draw))))
    if isinstance(node, ast.Return) and node.value is not None:
        returned = draw.choice(_RETURNS).replace("X", f"({ast.unparse(node.value)})")
        found.append(("return", lambda: setattr(node, "value", ast.parse(returned, mode="eval").body)))
    if isinstance(node, ast.Call) and len(node.args) > 1:
        found.append(("arguments", lambda: node.args.reverse()))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
        found.append(("range", lambda: node.args.__setitem__(-1, ast.BinOp(node.args[-1], ast.Sub(), ast.Constant(1)))))
    if isinstance(node, ast.If | ast.While):
        found.append(("test", lambda: setattr(node, "test", ast.UnaryOp(ast.Not(), node.test))))
    if isinstance(node, ast.FunctionDef | ast.For | ast.If) and len(node.body) > 1:
        found.append(("deletion", lambda: node.body.pop(draw.randrange(len(node.body)))))
    return found


def _changed(value: Any, draw: random.Random) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return draw.choice([value + "x", value.upper(), value[1:]])
    return value + draw.choice([1, -1, 2])


def digest(answer: str) -> str:
    """Tells whether this Python writes an answer as the fixture's did."""
    return hashlib.sha256(answer.encode()).hexdigest()[:8]
