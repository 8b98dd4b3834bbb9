"""A sample's database in SQLite, where MariaDB is not available: statements are translated, as an approximation.

Text is compared without case, as in MySQL; numbers in text, functions and error messages are SQLite's.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from typing import Any

from cycleqd_merge.errors import TaskError
from cycleqd_merge.tasks.database.sample_database import row_texts, truncate
from cycleqd_merge.tasks.database.table import Table

_LONGEST_VALUE = 1 << 20  # bytes
_MAX_PAGES = 1 << 14
"""Size limit of a database, in pages of 4 KiB."""
_KINDS = ("INDEX", "TABLE", "VIEW")
_ALLOWED_ACTIONS = {
    getattr(sqlite3, f"SQLITE_{action}")
    for action in (
        *("ALTER_TABLE", "DELETE", "FUNCTION", "INSERT", "READ", "RECURSIVE", "REINDEX", "SELECT", "UPDATE"),
        *("SAVEPOINT", "TRANSACTION"),
        *(f"{verb}_{kind}" for verb in ("CREATE", "CREATE_TEMP", "DROP", "DROP_TEMP") for kind in _KINDS),
    )
}


def require_sqlite() -> str:
    """A one-line description of the database that samples will use.

    Raises:
        TaskError: sqlglot is not installed.
    """
    _sqlglot()
    return f"SQLite {sqlite3.sqlite_version} through sqlglot: an approximation of MariaDB"


def _sqlglot() -> Any:
    try:
        import sqlglot
    except ImportError as error:
        raise TaskError("database: sqlite requires sqlglot: `pip install 'cycleqd-merge[sqlite]'`") from error
    return sqlglot


class SqliteDatabase:
    """A `SampleDatabase` in memory. seconds: time limit of a statement."""

    def __init__(self, table: Table, seconds: float) -> None:
        self._table, self._seconds, self._deadline = table, seconds, float("inf")
        # one thread uses it at a time, but not always the same one
        self._connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        columns = ",".join(f"{_quoted(column)} TEXT COLLATE NOCASE" for column in table.columns)
        self._connection.execute(f"CREATE TABLE {_quoted(table.name)} ({columns})")
        places = ",".join("?" * len(table.columns))
        self._connection.executemany(f"INSERT INTO {_quoted(table.name)} VALUES ({places})", table.rows)
        self._connection.execute(f"PRAGMA max_page_count = {_MAX_PAGES}")
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE)
        self._connection.set_authorizer(
            lambda action, *_: sqlite3.SQLITE_OK if action in _ALLOWED_ACTIONS else sqlite3.SQLITE_DENY
        )
        self._connection.set_progress_handler(lambda: time.monotonic() > self._deadline, 10_000)

    def execute(self, sql: str) -> str:
        sqlglot = _sqlglot()
        self._deadline = time.monotonic() + self._seconds
        try:
            level = sqlglot.ErrorLevel.IGNORE  # a statement that cannot be translated fails when it is executed
            statements = sqlglot.transpile(sql, read="mysql", write="sqlite", unsupported_level=level)
            if len(statements) != 1:
                return f"1064 (42000): expected one statement; found {len(statements)}"
            return truncate(row_texts(self._connection.execute(statements[0])))
        except (sqlite3.Error, sqlglot.errors.SqlglotError, RecursionError, UnicodeError) as error:
            return truncate([f"1064 (42000): {str(error) or type(error).__name__}"])

    def digest(self) -> str | None:
        self._deadline = time.monotonic() + self._seconds
        columns = ",".join(map(_quoted, self._table.columns))
        try:
            rows = self._connection.execute(f"SELECT {columns} FROM {_quoted(self._table.name)}").fetchall()
        except sqlite3.Error:
            return None
        joined = (",".join(str(cell) for cell in row if cell is not None) for row in rows)
        hashes = sorted(hashlib.md5(text.encode(errors="replace")).hexdigest()[:5] for text in joined)
        return f"[{(hashlib.md5(','.join(hashes).encode()).hexdigest(),)!r}]" if hashes else "[(None,)]"

    def close(self) -> None:
        self._connection.close()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
