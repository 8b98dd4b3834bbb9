"""Finding the program in an answer, as EvalPlus does: the code block, then what its function needs and nothing else."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence

_FENCED = re.compile(r"```[ \t]*(?:python3?|py)?[ \t]*(?:\n|(?=\s))(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)
_MOST_LINES = 400


def extract_program(answer: str, entry_point: str) -> str:
    """Imports, and the definitions that `entry_point` is made of, from an answer; nothing of it is run.

    Of several code blocks it is the first that defines `entry_point`; without any, the longest run of lines that is
    Python. An answer that defines no such name comes back as it is, to fail where it is run.
    """
    blocks = [match.group(1) for match in _FENCED.finditer(answer)] or [answer]
    defines = re.compile(rf"^\s*(?:async\s+)?def\s+{re.escape(entry_point)}\b|^{re.escape(entry_point)}\s*=", re.M)
    block = next((block for block in blocks if defines.search(block)), blocks[0])
    return "\n".join(_needed(*_longest_python(block.split("\n")[:_MOST_LINES]), entry_point)) or block


def _longest_python(lines: Sequence[str]) -> tuple[Sequence[str], ast.Module]:
    """The longest run of lines that is Python, and its tree."""
    best: tuple[Sequence[str], ast.Module] = ((), ast.Module([], []))
    for start in range(len(lines)):
        if _length(lines[start:]) <= _length(best[0]):
            break
        end = len(lines)
        while end > start:
            run = lines[start:end]
            tree, wrong_at = _parse(run)
            if tree is not None:
                best = (run, tree) if _length(run) > _length(best[0]) else best
                break
            end = start + min(wrong_at, len(run) - 1)
    return best


def _length(lines: Sequence[str]) -> int:
    return sum(bool(line.strip()) for line in lines)


def _parse(lines: Sequence[str]) -> tuple[ast.Module | None, int]:
    """The tree of some lines; else None and how many of them, at most, are Python."""
    try:
        return ast.parse("\n".join(lines)), 0
    except SyntaxError as error:
        return None, max((error.lineno or 1) - 1, 0)
    except (ValueError, RecursionError, MemoryError):
        return None, 0


def _needed(lines: Sequence[str], tree: ast.Module, entry_point: str) -> list[str]:
    """The texts of imports, and of the definitions that `entry_point` reaches by name."""
    defined = [(node, _names(node)) for node in tree.body]
    uses = {
        name: {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
        for node, names in defined
        for name in names
    }
    reached, open_ = {entry_point}, [entry_point]
    while open_:
        for name in uses.get(open_.pop(), set()) - reached:
            reached.add(name)
            open_.append(name)
    if entry_point not in uses:
        return []
    kept = [
        node
        for node, names in defined
        if isinstance(node, ast.Import | ast.ImportFrom) or not reached.isdisjoint(names)
    ]
    return ["\n".join(lines[_first_line(node) - 1 : node.end_lineno]) for node in kept]


def _names(node: ast.stmt) -> set[str]:
    """What a statement at the top level defines."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    if not isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
        return set()
    return {
        part.id for target in targets if target is not None for part in ast.walk(target) if isinstance(part, ast.Name)
    }


def _first_line(node: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])
