"""A sample's database in SQLite, where MariaDB is not available: statements are translated, as an approximation.

Text is compared without case, as in MySQL; numbers in text, functions and error messages are SQLite's. Statements run
in child processes, because a single step of SQLite cannot be interrupted, only killed.
"""

from __future__ import annotations

import itertools
import os
import secrets
import sqlite3
from collections.abc import Callable
from typing import Any

from cycleqd_merge.bounded import Bounds, Keeper, LimitExceeded
from cycleqd_merge.errors import TaskError
from cycleqd_merge.tasks.database import sqlite_session
from cycleqd_merge.tasks.database.table import Table

_MEMORY = 2**29  # bytes that a statement may take in addition to the size of the database
_keepers = itertools.cycle([Keeper() for _ in range(min(4, os.cpu_count() or 1))])


def require_sqlite() -> str:
    """A one-line description of the database that samples will use.

    Raises:
        TaskError: sqlglot is not installed.
    """
    try:
        import sqlglot  # noqa: F401
    except ImportError as error:
        raise TaskError("database: sqlite requires sqlglot: `pip install 'cycleqd-merge[sqlite]'`") from error
    return f"SQLite {sqlite3.sqlite_version} through sqlglot: an approximation of MariaDB"


class SqliteDatabase:
    """A `SampleDatabase` in the memory of a child process. seconds: limit of a statement's CPU time.

    A statement that exceeds its limits leaves the database as it was. If its process had to be killed, the databases
    that it held are made again from the statements run so far, each when it is used next.
    """

    def __init__(self, table: Table, seconds: float) -> None:
        self._table: sqlite_session.Made = (table.name, table.columns, table.rows)
        self._seconds, self._ran = seconds, list[str]()
        self._keeper, self._key = next(_keepers), secrets.token_hex(8)
        self._keeper.call(self._bounds(1), sqlite_session.make, self._key, seconds, self._table, [])

    def execute(self, sql: str) -> str:
        try:
            result = self._run(sqlite_session.execute, sql)
        except LimitExceeded as error:
            return f"1064 (42000): interrupted: the statement {error}"
        self._ran.append(sql)
        return str(result)

    def digest(self) -> str | None:
        name, columns, _ = self._table
        try:
            found: list[str | None] = self._run(sqlite_session.digest, name, list(columns))
        except LimitExceeded:
            return None
        return found[0]

    def close(self) -> None:
        self._keeper.call(Bounds(), sqlite_session.close_session, self._key)

    def _run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function of `sqlite_session` on the database, which is made again if it is gone."""
        given = (self._key, self._seconds, self._ran, *arguments)
        result = self._keeper.call(self._bounds(1), function, *given)
        if result is not None:
            return result
        return self._keeper.call(self._bounds(1 + len(self._ran)), function, *given, self._table)

    def _bounds(self, statements: int) -> Bounds:
        """Limits of a call that runs this number of statements; SQLite interrupts itself earlier, if it can."""
        return Bounds(seconds=(self._seconds + 0.5) * statements, memory=_MEMORY)
