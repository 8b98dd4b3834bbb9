"""The turns of a conversation in AgentBench's format: the statement that a model wants to run, and its final answer."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from typing import Any

_LONGEST = 2**16  # characters of a list: longer ones can take minutes and gigabytes to read


def read_statement(turn: str) -> str | None:
    """The SQL statement that a turn wants to run, on one line; None if it is not an operation in the expected form."""
    action, block = _between(turn, "Action: ", "\n"), _between(turn, "```sql\n", "\n```")
    if action != "Operation" or block is None:
        return None
    return block.strip().replace("\n", " ")


def _between(text: str, start: str, end: str) -> str | None:
    """The text between the first `start` and the next `end`; a regular expression would take quadratic time."""
    _, found, rest = text.partition(start)
    inner, ended, _ = rest.partition(end)
    return inner if found and ended else None


def is_answer(turn: str, label: Sequence[str]) -> bool:
    """Whether a turn's final answer equals `label`: one number by value, one text exactly, several values as a set."""
    found = re.search(r"\nFinal Answer:(.*)", turn)
    values = _read_values(found.group(1) if found else "")
    if len(values) != 1 or len(label) != 1:
        try:
            return set(values) == set(label)
        except TypeError:  # a list of lists
            return False
    try:
        return float(values[0]) == float(label[0])
    except (TypeError, ValueError, OverflowError):
        return bool(values[0] == label[0])


def _read_values(text: str) -> list[Any]:
    """The values that a final answer lists; text that is not a Python literal, or a very long one, is one value."""
    if len(text) > _LONGEST:
        return [text]
    try:
        return list(ast.literal_eval(text.strip()))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return [text]


def write_statement(statement: str) -> str:
    """A turn that runs a statement."""
    return f"Action: Operation\n```sql\n{statement}\n```"


def write_answer(values: Sequence[str]) -> str:
    """A turn that gives a final answer."""
    return f"Action: Answer\nFinal Answer: {json.dumps(values, ensure_ascii=False)}"
