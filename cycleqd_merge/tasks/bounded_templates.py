"""Task templates within limits: they run in a child process, because a template may compute without end."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from threading import Lock
from typing import Any

import jinja2
from cachetools import LRUCache, cached
from jinja2 import meta

from cycleqd_merge.bounded import Bounds, LimitExceeded, call
from cycleqd_merge.errors import RecipeError
from cycleqd_merge.tasks.templates import compile_template, fill

_BOUNDS = Bounds(seconds=2.0)
_CACHED = 2**26  # characters of filled templates that are kept
_TYPE = "\0type"


@dataclass(frozen=True)
class Template:
    """A Jinja template over a row's columns. is_reference: it renders a reference answer. reads: columns, or `row`.

    Make one with `parse`.
    """

    text: str
    is_reference: bool
    reads: frozenset[str]

    @classmethod
    def parse(cls, text: str, is_reference: bool = False) -> Template:
        """A template.

        Raises:
            RecipeError: it is not a template, or exceeds a limit.
        """
        try:
            return cls(text, is_reference, frozenset(call(_BOUNDS, _names, text, is_reference)))
        except LimitExceeded as error:
            raise RecipeError(f"the template {error}") from None

    def fill(self, columns: Mapping[str, Any]) -> str:
        """Fill in the template.

        Raises:
            DataError: a column is missing or null, or the template fails on these values.
            RecipeError: it exceeds its limit of time or memory.
        """
        read = columns if "row" in self.reads else {name: columns[name] for name in self.reads if name in columns}
        try:
            return _filled(self.text, self.is_reference, json.dumps(read, default=_encode), tuple(columns))
        except LimitExceeded as error:
            place = getattr(columns, "place", "") or f"the row with {next(iter(columns.items()), '')!r}"
            raise RecipeError(f"the template {error} in {place}; simplify it") from None


@cached(LRUCache(_CACHED, getsizeof=len), lock=Lock())  # every child gets the same prompts
def _filled(text: str, is_reference: bool, columns: str, names: tuple[str, ...]) -> str:
    return call(_BOUNDS, _fill, text, is_reference, columns, list(names))


def _names(text: str, is_reference: bool) -> list[str]:
    """In the child: the names of columns that a template may read; `row` stands for all of them."""
    environment = _compiled(text, is_reference).environment
    names = meta.find_undeclared_variables(environment.parse(text))
    return sorted({*names, *environment.globals, *(["row"] if "self" in text else [])})  # a column hides a global


def _fill(text: str, is_reference: bool, columns: str, names: list[str]) -> str:
    """In the child."""
    return fill(_compiled(text, is_reference), json.loads(columns, object_hook=_decode), names)


def _encode(value: Any) -> Any:
    """A value that JSON has no type for, as in rows from Parquet; other objects as text."""
    if isinstance(value, datetime):  # pandas has a class of its own, which writes nanoseconds
        return {_TYPE: ["datetime", datetime.isoformat(value)]}
    if isinstance(value, date | time):
        return {_TYPE: [type(value).__name__, value.isoformat()]}
    if isinstance(value, timedelta):
        return {_TYPE: ["timedelta", value // timedelta(microseconds=1)]}
    if isinstance(value, Decimal):
        return {_TYPE: ["Decimal", str(value)]}
    if isinstance(value, bytes):
        return {_TYPE: ["bytes", value.hex()]}
    return str(value)


_DECODERS: dict[str, Callable[[Any], Any]] = {
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "timedelta": lambda microseconds: timedelta(microseconds=microseconds),
    "Decimal": Decimal,
    "bytes": bytes.fromhex,
}


def _decode(value: dict[str, Any]) -> Any:
    """The value that `_encode` encoded."""
    if value.keys() != {_TYPE}:
        return value
    kind, content = value[_TYPE]
    return _DECODERS[kind](content)


@lru_cache
def _compiled(text: str, is_reference: bool) -> jinja2.Template:
    return compile_template(text, is_reference)
