"""The table of an AgentBench database sample."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cycleqd_merge.errors import DataError


@dataclass(frozen=True)
class Table:
    """A table of text columns; a missing cell is None."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | None, ...], ...]

    @classmethod
    def of(cls, stated: Mapping[str, Any]) -> Table:
        """The `table` of an AgentBench row, repaired where a database would reject it.

        An unnamed or repeated column gets a unique name. Rows are padded or cut to the number of columns, and empty
        rows are dropped.

        Raises:
            DataError: the table has no name or no columns.
        """
        try:
            name, info = str(stated["table_name"]), stated["table_info"]
            columns = _distinct(str(column["name"]) for column in info["columns"])
            cells = [[None if cell is None else str(cell) for cell in row] for row in info["rows"] if row]
        except (KeyError, TypeError) as error:
            raise DataError(f"table: not in AgentBench's format: {error}") from None
        if not name or not columns:
            raise DataError("table: a name and at least one column are required")
        width = len(columns)
        return cls(name, columns, tuple((*row[:width], *[None] * (width - len(row))) for row in cells))


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    """Column names that differ for a database, which ignores case and trailing blanks."""
    found: dict[str, str] = {}
    for place, name in enumerate(names, start=1):
        plain = name.rstrip() or f"column_{place}"
        free = plain if plain.lower() not in found else f"{plain}_{place}"
        found[free.lower()] = free
    return tuple(found.values())
