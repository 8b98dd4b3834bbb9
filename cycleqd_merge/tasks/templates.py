"""Jinja templates over a row's columns, in Jinja's sandbox: columns come before methods, and a null is never text."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from jinja2 import filters, nodes
from jinja2.sandbox import SandboxedEnvironment
from jinja2.visitor import NodeTransformer

from cycleqd_merge.config.validation_errors import short_repr
from cycleqd_merge.errors import DataError, RecipeError


class _NotText(Exception):
    """A value that must not become part of a text."""


class Null:
    """A null in a row: false and equal to None, but an error where its text is used."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __bool__(self) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return other is None or isinstance(other, Null)

    def __hash__(self) -> int:
        return hash(None)

    def __repr__(self) -> str:
        return "None"

    def __str__(self) -> str:
        empty = f'{{{{ {_expression(self._path)} or "" }}}}'
        raise _NotText(f"column {self._path!r} is null; give it a value, or write `{empty}` for an empty text")


def _expression(path: str) -> str:
    """How a template writes a column."""
    return path if re.match(r"[^\W\d]\w*(\.\w+|\[\d+\])*$", path) else f'row["{path}"]'


def _as_text(value: Any) -> Any:
    """A value that a template prints; called by Jinja.

    Raises:
        _NotText: it has no sensible text.
    """
    if isinstance(value, jinja2.Undefined | str):
        return value
    if value is None:
        raise _NotText("a value is null")
    if isinstance(value, float) and not math.isfinite(value):
        raise _NotText(f"a value is {value}, which is not a number")
    if isinstance(value, bytes):
        raise _NotText("a value is binary data, not text")
    if callable(value):
        name = getattr(value, "__name__", type(value).__name__)
        raise _NotText(f"a value is a function of Jinja or Python ({name}); does the row lack a column of that name?")
    return value


def _as_reference(value: Any) -> Any:
    """`_as_text` for a reference answer, which is one text."""
    if isinstance(value, list | tuple | Mapping):
        raise _NotText(
            f"{short_repr(value)} is {'an object' if isinstance(value, Mapping) else 'a list'}; write which of its "
            "values is the answer, such as `{{ answer[0] }}`, or `{{ answer | string }}` for its own text"
        )
    return _as_text(value)


class _Position(int):
    """A position in a list that a template computes, such as a row's label; not one that it states, such as `[-1]`."""


def _as_position(value: Any) -> Any:
    return _Position(value) if type(value) is int else value


def _as_int(value: Any, default: Any = None, base: int = 10) -> Any:
    """Jinja's filter `int`, without its silent 0 for what is not a number."""
    found = filters.do_int(value, default, base)
    if found is None:
        raise _no_number(value, "int")
    return found


def _as_float(value: Any, default: Any = None) -> Any:
    """Jinja's filter `float`, without its silent 0 for what is not a number."""
    found = filters.do_float(value, default)
    if found is None:
        raise _no_number(value, "float")
    return found


def _no_number(value: Any, name: str) -> _NotText:
    shown = str(value) if isinstance(value, Null | str) else value  # raises for a null
    return _NotText(
        f"{short_repr(shown)} is not a number; correct the row, or write what to use instead, such as `{name}(0)`"
    )


class _Environment(SandboxedEnvironment):
    def getitem(self, obj: Any, argument: Any) -> Any:
        """Refuse a label of -1, by which datasets mark rows without a label: it is not the last element."""
        if isinstance(argument, _Position) and argument < 0 and isinstance(obj, list | tuple | str):
            raise _NotText(f"{int(argument)} is not a position in {short_repr(obj)}; leave out rows without a label")
        return super().getitem(obj, argument)


class _ColumnsFirst(NodeTransformer):
    """Makes `q.items` mean q["items"] where there is such a column, unless it is called; and `self` a column.

    It also marks positions that are computed (see `_Position`).
    """

    def visit_Call(self, node: nodes.Call) -> nodes.Node:
        called = node.node
        self.generic_visit(node)
        if isinstance(called, nodes.Getattr):
            node.node = called
        return node

    def visit_Getattr(self, node: nodes.Getattr) -> nodes.Node:
        self.generic_visit(node)
        return nodes.Getitem(node.node, nodes.Const(node.attr), node.ctx, lineno=node.lineno)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Expr) and not isinstance(node.arg, nodes.Slice | nodes.Const | nodes.Neg):
            node.arg = nodes.Filter(node.arg, "position", [], [], None, None, lineno=node.lineno)
        return node

    def visit_Name(self, node: nodes.Name) -> nodes.Node:
        if node.name == "self":
            return nodes.Getitem(nodes.Name("row", "load"), nodes.Const("self"), "load", lineno=node.lineno)
        return node


def _environment(finalize: Any) -> SandboxedEnvironment:
    environment = _Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, finalize=finalize)
    environment.tests["none"] = lambda value: value is None or isinstance(value, Null)
    environment.filters |= {"int": _as_int, "float": _as_float, "position": _as_position}
    environment.policies["json.dumps_kwargs"] = {"sort_keys": True, "default": _json_default}
    return environment


def _json_default(value: Any) -> Any:
    if isinstance(value, Null):
        return None
    raise TypeError(f"{type(value).__name__} is not JSON")


_TEXTS = _environment(_as_text)
_REFERENCES = _environment(_as_reference)


def compile_template(text: str, is_reference: bool = False) -> jinja2.Template:
    """A template. is_reference: it renders a reference answer.

    Raises:
        RecipeError: it is not a template.
    """
    environment = _REFERENCES if is_reference else _TEXTS
    try:
        return environment.from_string(_ColumnsFirst().visit(environment.parse(text)))
    except jinja2.TemplateSyntaxError as error:
        raise RecipeError(f"not a template: {error.message}{_quoting_hint(text)}") from None


def _quoting_hint(text: str) -> str:
    """How to write the first `{{ ... }}` that is not an expression, if it may be a column's name."""
    for inner in re.findall(r"\{\{-?\s*([^{}\"']+?)\s*-?\}\}", text):
        try:
            _TEXTS.parse("{{ " + inner + " }}")
        except jinja2.TemplateSyntaxError:
            return f'; the column `{inner}` is written {{{{ row["{inner}"] }}}}'
    return ""


def fill(template: jinja2.Template, columns: Mapping[str, Any], names: Sequence[str]) -> str:
    """Fill in a template. `row` is the row itself, for columns whose names are not words: `row["Correct Answer"]`.

    names: the names of all columns, for messages; `columns` are at least those that the template reads.

    Raises:
        DataError: a column is missing or null, or the template fails on these values.
    """
    try:
        marked = _mark_nulls(dict(columns), "")
        return template.render({"row": marked, **marked})
    except jinja2.UndefinedError as error:
        message = str(error.message).replace(f"'{__name__}.Null object'", "a null")
        hint = _column_hint(message, names)
        raise DataError(f"{message}{hint}; the row has the columns {', '.join(names)}") from None
    except _NotText as error:
        raise DataError(str(error)) from None
    except RecursionError:
        raise DataError("cannot be rendered: a value is nested too deeply") from None
    except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise DataError(f"cannot be rendered: {error}") from error


def _column_hint(message: str, columns: Sequence[str]) -> str:
    """How to write a column whose name contains the undefined name, if there is one."""
    name = re.match(r"'(.+)' is undefined", message)
    if name is None:
        return ""
    meant = [column for column in columns if not column.isidentifier() and name[1] in re.split(r"\W+", column)]
    return f"; write row[{meant[0]!r}]" if meant else ""


def _mark_nulls(value: Any, path: str) -> Any:
    if value is None:
        return Null(path)
    if isinstance(value, dict):
        return {key: _mark_nulls(item, f"{path}.{key}" if path else str(key)) for key, item in value.items()}
    if isinstance(value, list):
        return [_mark_nulls(item, f"{path}[{place}]") for place, item in enumerate(value)]
    return value
