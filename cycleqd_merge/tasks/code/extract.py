"""Extracting the program from an answer, as EvalPlus does: from its code block, the function and what it depends on."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence

_FENCED = re.compile(r"```[ \t]*(?:python3?|py)?[ \t]*(?:\n|(?=\s))(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)
_MAX_LINES = 400


def extract_program(answer: str, entry_point: str) -> str:
    """The imports of an answer, and the definitions that `entry_point` depends on. Nothing is executed.

    They are taken from the first code block that defines `entry_point`; without code blocks, from the longest run of
    lines that is valid Python. If nothing defines the name, the block is returned unchanged, and will fail when run.
    """
    blocks = [match.group(1) for match in _FENCED.finditer(answer)] or [answer]
    defines = re.compile(rf"^\s*(?:async\s+)?def\s+{re.escape(entry_point)}\b|^{re.escape(entry_point)}\s*=", re.M)
    block = next((block for block in blocks if defines.search(block)), blocks[0])
    return "\n".join(_needed(*_longest_python(block.split("\n")[:_MAX_LINES]), entry_point)) or block


def _longest_python(lines: Sequence[str]) -> tuple[Sequence[str], ast.Module]:
    """The longest run of lines that is valid Python, and its syntax tree."""
    best: tuple[Sequence[str], ast.Module] = ((), ast.Module([], []))
    for start in range(len(lines)):
        if _length(lines[start:]) <= _length(best[0]):
            break
        end = len(lines)
        while end > start:
            run = lines[start:end]
            tree, valid = _parse(run)
            if tree is not None:
                best = (run, tree) if _length(run) > _length(best[0]) else best
                break
            end = start + min(valid, len(run) - 1)
    return best


def _length(lines: Sequence[str]) -> int:
    return sum(bool(line.strip()) for line in lines)


def _parse(lines: Sequence[str]) -> tuple[ast.Module | None, int]:
    """The syntax tree of lines; or None, and the largest number of them that may be valid Python."""
    try:
        return ast.parse("\n".join(lines)), 0
    except SyntaxError as error:
        return None, max((error.lineno or 1) - 1, 0)
    except (ValueError, RecursionError, MemoryError):
        return None, 0


def _needed(lines: Sequence[str], tree: ast.Module, entry_point: str) -> list[str]:
    """The source of imports, and of the definitions that `entry_point` refers to, directly or indirectly."""
    defined = [(node, _names(node)) for node in tree.body]
    uses = {
        name: {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
        for node, names in defined
        for name in names
    }
    reached, queue = {entry_point}, [entry_point]
    while queue:
        for name in uses.get(queue.pop(), set()) - reached:
            reached.add(name)
            queue.append(name)
    if entry_point not in uses:
        return []
    kept = [
        node
        for node, names in defined
        if isinstance(node, ast.Import | ast.ImportFrom) or not reached.isdisjoint(names)
    ]
    return ["\n".join(lines[_start_line(node) - 1 : node.end_lineno]) for node in kept]


def _names(node: ast.stmt) -> set[str]:
    """The names that a top-level statement defines."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    if not isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
        return set()
    return {
        part.id for target in targets if target is not None for part in ast.walk(target) if isinstance(part, ast.Name)
    }


def _start_line(node: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])
