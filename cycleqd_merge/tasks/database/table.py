"""The table of an AgentBench database sample, and what MariaDB can store of one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cycleqd_merge.config.validation_errors import short_repr
from cycleqd_merge.errors import DataError

# MariaDB's limits, measured on 10.11 with its default page size; tests/tasks/database/test_table.py compares them
_LONGEST_NAME = 64  # characters
_LONGEST_FILE_NAME = 251  # bytes of a table's name, as it is written in the name of its file
_MOST_COLUMNS = 383  # text columns
_LONGEST_CELL = 65_535  # bytes
_LARGEST_ROW = 8125  # bytes within a page
_LARGEST_TABLE = 8 << 20  # bytes: the statement that fills the table must not exceed 16 MiB when escaped
_BLANKS = " \t\n\v\f\r"
"""Characters that a name cannot end with."""


@dataclass(frozen=True)
class Table:
    """A table of text columns; a missing cell is None."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | None, ...], ...]

    @classmethod
    def of(cls, stated: Any) -> Table:
        """The `table` of an AgentBench row, repaired where a database would reject it.

        An unnamed or repeated column gets a unique name, and a name loses its trailing blanks. Rows are padded or cut
        to the number of columns, and empty rows are dropped.

        Raises:
            DataError: it is not in AgentBench's format, has no name or no columns, or MariaDB cannot store it.
        """
        name = _text(_key(stated, "table_name", "table"), "table_name").rstrip(_BLANKS)
        info = _key(stated, "table_info", "table")
        names = [
            _text(_key(column, "name", f"column {place}"), f"column {place}: name")
            for place, column in enumerate(_list(_key(info, "columns", "table_info"), "columns"), start=1)
        ]
        rows = [
            _cells(_list(row, f"row {place} of the table"), place)
            for place, row in enumerate(_list(_key(info, "rows", "table_info"), "rows"), start=1)
        ]
        if not name or not names:
            raise DataError("table: a name and at least one column are required")
        columns, width = _distinct(names), len(names)
        table = cls(name, columns, tuple((*row[:width], *[None] * (width - len(row))) for row in rows if row))
        _require_storable(table)
        return table


def _key(value: Any, key: str, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: expected an object with the key `{key}`; found {short_repr(value)}")
    if key not in value:
        raise DataError(f"{where}: the key `{key}` is missing")
    return value[key]


def _list(value: Any, where: str) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise DataError(f"{where}: expected a list; found {short_repr(value)}")
    return value


def _text(value: Any, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise DataError(f"{where}: expected a text; found {short_repr(value)}")
    return str(value)


def _cells(row: Sequence[Any], place: int) -> list[str | None]:
    """The cells of a row as text; a number is written as AgentBench's client writes it."""
    cells: list[str | None] = []
    for number, cell in enumerate(row, start=1):
        finite = not isinstance(cell, float) or math.isfinite(cell)
        if cell is not None and (not isinstance(cell, str | int | float) or not finite):
            raise DataError(f"row {place} of the table, cell {number}: expected a text, number or null; found {cell!r}")
        cells.append(None if cell is None else str(int(cell)) if isinstance(cell, bool) else str(cell))
    return cells


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    """Column names that differ for a database, which ignores case and rejects trailing blanks."""
    found: dict[str, str] = {}
    for place, name in enumerate(names, start=1):
        plain = free = name.rstrip(_BLANKS) or f"column_{place}"
        while _folded(free) in found:
            free = f"{free}_{place}" if free == plain else f"{free}_"
        found[_folded(free)] = free
    return tuple(found.values())


def _folded(name: str) -> str:
    """A name as MariaDB compares it. It knows fewer letters than Python, but takes a capital dotted I for an i."""
    return name.replace("\u0130", "i").lower()


def _require_storable(table: Table) -> None:
    """Check a table against MariaDB's limits.

    Raises:
        DataError: it exceeds one.
    """
    for kind, name in (("table_name", table.name), *(("column", column) for column in table.columns)):
        if len(name) > _LONGEST_NAME:
            raise DataError(
                f"{kind} {short_repr(name)}: {len(name)} characters; MariaDB's names have at most {_LONGEST_NAME}; "
                "shorten it"
            )
        unusable = next((letter for letter in name if not 0 < ord(letter) <= 0xFFFF or _is_surrogate(letter)), None)
        if unusable is not None:
            raise DataError(
                f"{kind} {short_repr(name)}: MariaDB's names cannot contain U+{ord(unusable):04X}; rename it"
            )
    if sum(map(_file_bytes, table.name)) > _LONGEST_FILE_NAME:
        raise DataError(f"table_name {short_repr(table.name)}: too long for the name of MariaDB's file; shorten it")
    if len(table.columns) > _MOST_COLUMNS:
        raise DataError(f"table: {len(table.columns)} columns; MariaDB stores at most {_MOST_COLUMNS} columns of text")
    total = 0
    for place, row in enumerate(table.rows, start=1):
        sizes = [_bytes(cell, place) for cell in row if cell is not None]
        longest = max(sizes, default=0)
        if longest > _LONGEST_CELL:
            raise DataError(
                f"row {place} of the table: a cell of {longest} bytes; MariaDB's text columns hold at most "
                f"{_LONGEST_CELL} bytes"
            )
        if _page_bytes(sizes, len(row)) > _LARGEST_ROW:
            raise DataError(f"row {place} of the table: its {len(row)} cells are too large for one row of MariaDB")
        total += sum(sizes) + 3 * len(row)
    if total > _LARGEST_TABLE:
        raise DataError(f"table: {total} bytes; at most {_LARGEST_TABLE} can be sent to the database at once")


def _is_surrogate(letter: str) -> bool:
    return 0xD800 <= ord(letter) <= 0xDFFF


def _bytes(cell: str, place: int) -> int:
    try:
        return len(cell.encode())
    except UnicodeEncodeError:
        raise DataError(
            f"row {place} of the table: {short_repr(cell)} is not valid Unicode (a lone surrogate)"
        ) from None


def _file_bytes(letter: str) -> int:
    """Bytes of a letter in MariaDB's file names: `@` and a code, unless it is a plain letter or digit."""
    if letter.isascii() and (letter.isalnum() or letter == "_"):
        return 1
    return 3 if letter.lower() != letter.upper() else 5


def _page_bytes(sizes: Sequence[int], columns: int) -> int:
    """Bytes of a row within a page of InnoDB: a cell above 40 bytes is stored elsewhere and has a pointer here."""
    return 24 + (columns + 7) // 8 + sum(size + 1 if size <= 40 else 22 for size in sizes)
