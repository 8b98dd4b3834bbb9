"""What runs of a sample's SQLite database in a child process, which is killed if a statement exceeds its limits.

A child serves many conversations. It may lose their databases, because a statement of another one exceeded a limit:
then a conversation's tables are made again, from the statements that it has run so far.
"""

from __future__ import annotations

import functools
import hashlib
import sqlite3
import time
from collections.abc import Sequence
from typing import Any

from cycleqd_merge.errors import DataError
from cycleqd_merge.tasks.database.sample_database import row_texts, truncate

Made = tuple[str, Sequence[str], Sequence[Sequence[str | None]]]
"""A table's name, columns and rows."""

_LARGEST = 1 << 14
"""Size limit of a database, and of its temporary tables, in pages of 4 KiB."""
_LARGEST_TOTAL = 1 << 17
"""Size of all databases of a process, in pages of 4 KiB, above which the ones used least recently are dropped."""
_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 1 << 20,  # bytes of a value
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 1 << 20,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 1 << 20,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 1000,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
_KINDS = ("INDEX", "TABLE", "VIEW")
_ALLOWED_ACTIONS = {
    getattr(sqlite3, f"SQLITE_{action}")
    for action in (
        *("ALTER_TABLE", "DELETE", "FUNCTION", "INSERT", "READ", "RECURSIVE", "REINDEX", "SELECT", "UPDATE"),
        *("SAVEPOINT", "TRANSACTION"),
        *(f"{verb}_{kind}" for verb in ("CREATE", "CREATE_TEMP", "DROP", "DROP_TEMP") for kind in _KINDS),
    )
}


class _Session:
    """A conversation's connection to its database in memory, after `ran` statements. size: in pages."""

    def __init__(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[str | None]]) -> None:
        self.ran, self.size, self.deadline = 0, 0, float("inf")
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        texts = ",".join(f"{_quoted(column)} TEXT COLLATE NOCASE" for column in columns)
        self.connection.execute(f"CREATE TABLE {_quoted(name)} ({texts})")
        self.connection.executemany(f"INSERT INTO {_quoted(name)} VALUES ({','.join('?' * len(columns))})", rows)
        for setting in (f"max_page_count = {_LARGEST}", f"temp.max_page_count = {_LARGEST}", "temp_store = MEMORY"):
            self.connection.execute(f"PRAGMA {setting}")
        for limit, value in _LIMITS.items():
            self.connection.setlimit(limit, value)
        self.connection.set_progress_handler(lambda: time.process_time() > self.deadline, 10_000)
        self.connection.set_authorizer(_authorize)

    def execute(self, sql: str, seconds: float) -> str:
        """A statement's result. seconds: of CPU time after which it is interrupted."""
        self.ran += 1
        self.deadline = time.process_time() + seconds
        sqlglot = _sqlglot()
        try:
            level = sqlglot.ErrorLevel.IGNORE  # a statement that cannot be translated fails when it is executed
            statements = sqlglot.transpile(sql, read="mysql", write="sqlite", unsupported_level=level)
            if len(statements) != 1:
                return f"1064 (42000): expected one statement; found {len(statements)}"
            return truncate(row_texts(self.connection.execute(statements[0])))
        except MemoryError:
            return "1064 (42000): out of memory"
        except (sqlite3.Error, sqlglot.errors.SqlglotError, RecursionError, UnicodeError) as error:
            return truncate([f"1064 (42000): {str(error) or type(error).__name__}"])

    def measure(self) -> None:
        self.connection.set_authorizer(None)
        pages = (self.connection.execute(f"PRAGMA {each}.page_count").fetchone()[0] for each in ("main", "temp"))
        self.size = sum(pages)
        self.connection.set_authorizer(_authorize)

    def digest(self, name: str, columns: Sequence[str], seconds: float) -> str | None:
        self.deadline = time.process_time() + seconds
        try:
            selected = f"SELECT {','.join(map(_quoted, columns))} FROM {_quoted(name)}"
            rows = self.connection.execute(selected).fetchall()
        except sqlite3.Error:
            return None
        joined = (",".join(str(cell) for cell in row if cell is not None) for row in rows)
        hashes = sorted(hashlib.md5(text.encode(errors="replace")).hexdigest()[:5] for text in joined)
        return f"[{(hashlib.md5(','.join(hashes).encode()).hexdigest(),)!r}]" if hashes else "[(None,)]"


_sessions: dict[str, _Session] = {}
"""By conversation, the one used last at the end."""


def make(key: str, seconds: float, table: Made, statements: list[str]) -> None:
    """Make a conversation's database, and run statements on it. seconds: limit of each.

    Raises:
        DataError: SQLite cannot store the table.
    """
    close_session(key)
    try:
        session = _Session(*table)
    except sqlite3.Error as error:
        raise DataError(f"table {table[0]!r}: the database cannot store it: {error}") from None
    for sql in statements:
        session.execute(sql, seconds)
    _keep(key, session)


def execute(key: str, seconds: float, statements: list[str], sql: str, table: Made | None = None) -> str | None:
    """A statement's result; None if the database is not here and no `table` is given to make it of.

    statements: those that the conversation has run so far.
    """
    if table is not None:
        make(key, seconds, table, statements)
    session = _session(key, statements)
    if session is None:
        return None
    result = session.execute(sql, seconds)
    _keep(key, session)
    return result


def digest(
    key: str, seconds: float, statements: list[str], name: str, columns: list[str], table: Made | None = None
) -> list[str | None] | None:
    """AgentBench's MD5 of the table, or None instead, in a list; None if there is no database, as in `execute`."""
    if table is not None:
        make(key, seconds, table, statements)
    session = _session(key, statements)
    return None if session is None else [session.digest(name, columns, seconds)]


def close_session(key: str) -> None:
    """Drop a conversation's database, if it is here."""
    if session := _sessions.pop(key, None):
        session.connection.close()


def _session(key: str, statements: list[str]) -> _Session | None:
    session = _sessions.get(key)
    return session if session is not None and session.ran == len(statements) else None


def _keep(key: str, session: _Session) -> None:
    """Keep a session as the one used last; drop others while all together are too large."""
    session.measure()
    _sessions.pop(key, None)
    _sessions[key] = session
    while len(_sessions) > 1 and sum(each.size for each in _sessions.values()) > _LARGEST_TOTAL:
        close_session(next(iter(_sessions)))


def _authorize(action: int, *_: Any) -> int:
    return sqlite3.SQLITE_OK if action in _ALLOWED_ACTIONS else sqlite3.SQLITE_DENY


@functools.cache
def _sqlglot() -> Any:
    import sqlglot

    return sqlglot


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
