"""Finding Python in text: the runs of consecutive lines that are valid Python. Nothing is executed.

The time is linear in the text's length, up to a constant number of restarts: a text is divided into pieces, each a
top-level statement if the text is Python, and every piece is parsed by itself.
"""

from __future__ import annotations

import ast
import re
import symtable
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

_TOKEN = re.compile(
    r"#[^\n]*"
    r"|(?P<quotes>\"\"\"|''')(?:\\.|(?!(?P=quotes)).)*(?P=quotes)"
    r"|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'"
    r"|(?P<bracket>[()\[\]{}])|(?P<line>\n)",
    re.DOTALL,
)
_CLOSES = {")": "(", "]": "[", "}": "{"}
_STARTS = re.compile(r"(?:async[ ]+def|class|def|import|return|try|while|with)\b|@\w|```|~~~")
"""At the start of a line, these are never inside brackets: a bracket that is still open is prose."""
_CONTINUES = re.compile(r"\s|(?:elif|else|except|finally)\b|#|$")
_ATTEMPTS = 20
"""How often an invalid piece is shortened, and a text divided again without the brackets that held a piece together."""
_PARSED = 100_000  # characters that these attempts may parse again


@dataclass(frozen=True)
class Statement:
    """A top-level statement: its source and syntax tree, the names it uses and binds at module level."""

    source: str
    tree: ast.stmt
    uses: frozenset[str]
    binds: frozenset[str]


@dataclass(frozen=True)
class PythonRun:
    """Consecutive lines that are valid Python. lines: how many of them are not blank."""

    lines: int
    statements: tuple[Statement, ...]


def python_runs(text: str) -> list[PythonRun]:
    """The longest runs of lines that are valid Python, in their order; none begins with an indented line."""
    runs: list[PythonRun] = []
    lines, statements = 0, list[Statement]()
    for piece, valid in [*_pieces(text), ([""], 0)]:  # an invalid piece at the end
        if valid:
            lines += _count(piece[:valid])
            statements += _statements(piece[:valid])
        if valid < len(piece):
            if statements:
                runs.append(PythonRun(lines, tuple(statements)))
            lines, statements = 0, []
    return runs


def _count(lines: Sequence[str]) -> int:
    return sum(bool(line.strip()) for line in lines)


def _pieces(text: str) -> Iterator[tuple[Sequence[str], int]]:
    """Pieces of a text, each with the number of its lines, from the first on, that are valid Python."""
    lines = text.split("\n")
    start, restarts = 0, _attempts(lines)
    while start < len(lines):
        rest = lines[start:]
        inside = _inside(rest)
        start = len(lines)
        for first, end in pairwise(_bounds(rest, inside)):
            piece = rest[first:end]
            valid = _valid_lines(piece)
            yield piece, valid
            if restarts and any(line[:1].strip() for line in piece[max(valid, 1) :]):
                # it is invalid, and what held its lines together may be prose
                restarts -= 1
                start = len(lines) - len(rest) + first + max(valid, 1)
                break


def _inside(lines: Sequence[str]) -> list[bool]:
    """Whether each line begins inside brackets or a string."""
    text = "\n".join(lines)
    changes = [0] * (len(lines) + 1)  # difference of the depth
    opened: list[tuple[str, int]] = []
    line = 0
    for token in _TOKEN.finditer(text):
        bracket = token["bracket"]
        if bracket in _CLOSES:
            if opened and opened[-1][0] == _CLOSES[bracket]:
                changes[opened.pop()[1] + 1] += 1
                changes[line + 1] -= 1
        elif bracket:
            opened.append((bracket, line))
        elif token["line"]:
            line += 1
            if _STARTS.match(text, token.end()):
                opened.clear()
        elif count := token[0].count("\n"):
            changes[line + 1] += 1
            line += count
            changes[line + 1] -= 1
    depth, inside = 0, []
    for change in changes[: len(lines)]:
        depth += change
        inside.append(depth > 0)
    return inside


def _bounds(lines: Sequence[str], inside: Sequence[bool]) -> list[int]:
    """The numbers of the lines that begin a top-level statement, if the lines are Python, and the number of lines."""
    bounds, is_decorator = [0], lines[0].startswith("@")
    for number in range(1, len(lines)):
        if inside[number] or lines[number - 1].endswith("\\") or _CONTINUES.match(lines[number]):
            continue
        if not is_decorator:
            bounds.append(number)
        is_decorator = lines[number].startswith("@")
    return [*bounds, len(lines)]


def _valid_lines(lines: Sequence[str]) -> int:
    """The number of lines, from the first on, that are valid Python."""
    end = len(lines)
    for _ in range(_attempts(lines)):
        source = "\n".join(lines[:end])
        try:
            ast.parse(source)
            symtable.symtable(source, "answer", "exec")  # finds errors of its own
        except SyntaxError as error:
            end = min((error.lineno or 1) - 1, end - 1)
        except (ValueError, RecursionError, MemoryError):
            return 0
        else:
            return end
        if end <= 0:
            return 0
    return 0


def _attempts(lines: Sequence[str]) -> int:
    return min(_ATTEMPTS, 2 + _PARSED // (1 + sum(map(len, lines))))


def _statements(lines: Sequence[str]) -> list[Statement]:
    source = "\n".join(lines)
    rows = source.encode("utf-8", "surrogatepass").split(b"\n")
    return [_statement(rows, node) for node in ast.parse(source).body]


def _statement(rows: Sequence[bytes], node: ast.stmt) -> Statement:
    """rows: the lines of the source, as UTF-8, by which syntax trees count columns."""
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(decorator.lineno for decorator in decorators)])
    held = list(rows[first - 1 : node.end_lineno])
    held[-1] = held[-1][: node.end_col_offset]
    held[0] = held[0] if decorators else held[0][node.col_offset :]
    source = b"\n".join(held).decode()
    table = symtable.symtable(source, "answer", "exec")
    return Statement(source, node, frozenset(_used(table)), frozenset(_bound(table)))


def _used(table: symtable.SymbolTable) -> Iterator[str]:
    """The names of the module or of Python itself that a statement refers to, in all its scopes."""
    pending = [table]
    while pending:
        scope = pending.pop()
        pending += scope.get_children()
        for symbol in scope.get_symbols():
            referenced = symbol.is_referenced() or symbol.is_declared_global()  # `count += 1` is no reference
            if referenced and (scope is table or symbol.is_global()):
                yield symbol.get_name()


def _bound(table: symtable.SymbolTable) -> Iterator[str]:
    """The names that a statement binds in the module when it is executed."""
    return (symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned() or symbol.is_imported())
