"""A sample's database on a MariaDB or MySQL server: its table, a model's statements on it, and its digest."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any

import pymysql
from pymysql.constants import CLIENT, ER
from pymysql.converters import escape_string
from pymysql.cursors import SSCursor

from cycleqd_merge.errors import DataError, InfrastructureError
from cycleqd_merge.tasks.database.sample_database import row_texts, truncate
from cycleqd_merge.tasks.database.server import PREFIX, Server
from cycleqd_merge.tasks.database.table import Table

_PRIVILEGES = (
    "SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, ALTER, INDEX, REFERENCES, CREATE TEMPORARY TABLES, LOCK TABLES, "
    "CREATE VIEW, SHOW VIEW"
)
log = logging.getLogger(__name__)

_MOST_ROWS = 10_000
"""Rows beyond those that a model is shown after which its session is closed instead of skipping the others."""
_KILLED = 1927
"""MariaDB's error code of a connection that was killed."""
_HELD = (ER.LOCK_WAIT_TIMEOUT, 1969, 3024, 2013)
"""Errors of the administrator's statements whose reason may be a sample's statement: limits of locks and of time."""
_TABLE_ERRORS = (
    ER.TOO_LONG_IDENT,
    ER.DUP_FIELDNAME,
    ER.WRONG_TABLE_NAME,
    ER.WRONG_COLUMN_NAME,
    ER.INVALID_CHARACTER_STRING,
    ER.TOO_MANY_FIELDS,
    ER.TOO_BIG_ROWSIZE,
    ER.DATA_TOO_LONG,
    ER.PARSE_ERROR,
    ER.NET_PACKET_TOO_LARGE,
)
"""Errors of a server while it creates a sample's table that the table causes, not the server."""
_STATEMENT_ERRORS = (pymysql.MySQLError, ValueError, RuntimeError)  # a result may be text that cannot be decoded


class MariadbDatabase:
    """A `SampleDatabase` on a server, with its own user, who sees nothing else.

    seconds: time limit of a statement. closed: called at the end. Statements share one session, as in a client:
    variables, temporary tables and transactions last until the conversation ends. What a transaction has not committed
    by then is committed, as AgentBench does after every statement.

    Raises:
        DataError: the server cannot store the table.
        InfrastructureError: the server does not respond.
    """

    def __init__(self, server: Server, table: Table, seconds: float, closed: Callable[[], None] = lambda: None) -> None:
        self._server, self._table, self._seconds, self._closed = server, table, seconds, closed
        self._session: pymysql.Connection[Any] | None = None
        self._name = f"{PREFIX}{secrets.token_hex(8)}"  # without `_`, which is a wildcard in GRANT
        self._password = secrets.token_urlsafe(16)
        self._prepared_before = server.prepared_transactions()
        statements = [
            f"CREATE DATABASE {self._name} CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci",
            f"CREATE USER {self._name} IDENTIFIED BY '{self._password}'",
            f"GRANT {_PRIVILEGES} ON {self._name}.* TO {self._name}",
            f"USE {self._name}",
            *_creation(table),
        ]
        try:
            with server.administer(client_flag=CLIENT.MULTI_STATEMENTS) as cursor:
                cursor.execute(";".join(statements))
                while cursor.nextset():
                    pass
        except InfrastructureError as error:
            reason = error.__cause__
            if not isinstance(reason, pymysql.MySQLError) or not _is_the_tables(reason):
                raise
            self.close()
            raise DataError(f"table {table.name!r}: the database cannot store it: {reason.args[-1]}") from error

    def execute(self, sql: str) -> str:
        try:
            if self._session is None:
                self._session = self._connect()
            return truncate(self._rows(self._session, sql))
        except _STATEMENT_ERRORS as error:
            return truncate([self._message(error)])

    def digest(self) -> str | None:
        columns = ",".join(map(_quoted, self._table.columns))
        rows = f"SELECT SUBSTRING(MD5(CONCAT_WS(',', {columns})), 1, 5) AS rowhash FROM {_quoted(self._table.name)}"
        try:
            self._end_session()
            with closing(self._connect()) as connection:
                hashes = f"SELECT MD5(GROUP_CONCAT(rowhash ORDER BY rowhash)) AS hash FROM ({rows}) AS t"
                return "".join(self._rows(connection, hashes))
        except _STATEMENT_ERRORS as error:
            self._message(error)
            return None

    def close(self) -> None:
        """Remove the database and its user. One that a statement holds which cannot be stopped is abandoned."""
        try:
            self._remove()
        finally:
            self._closed()

    def _remove(self) -> None:
        self._drop_session()
        try:
            self._server.end_sessions(self._name)
            self._roll_back()
            with self._server.administer() as cursor:
                cursor.execute(f"DROP DATABASE IF EXISTS {self._name}")
                cursor.execute(f"DROP USER {self._name}")
        except InfrastructureError as error:
            reason = error.__cause__
            if isinstance(reason, pymysql.MySQLError) and reason.args[0] not in _HELD:
                raise
            with self._server.administer():  # raises if the server itself has failed
                pass
            self._server.abandoned.add(self._name)
            log.warning("%s; its database could not be removed", error)

    def _roll_back(self) -> None:
        """Roll back what the sample's sessions have left prepared (`XA PREPARE`): it would keep its locks.

        Transactions that other samples have prepared in the meantime belong to open sessions, or are left over, too.
        """
        self._server.roll_back(self._server.prepared_transactions() - self._prepared_before)

    def _connect(self) -> pymysql.Connection[Any]:
        """A new session of the sample's user."""
        limits = (
            # the first comment is for MariaDB only, the second for MySQL only
            f"SET SESSION /*M! max_statement_time={self._seconds}, */ "
            f"/*!50708 max_execution_time={round(1000 * self._seconds)}, */ group_concat_max_len=1048576"
        )
        connection = self._server.connect(
            user=self._name,
            password=self._password,
            read_timeout=self._seconds + 2,  # for statements that remove the server's limit
            cursorclass=_PartialCursor,
            init_command=limits,
        )
        connection.select_db(self._name)
        return connection

    def _end_session(self) -> None:
        """Commit what the session's transaction left open, and close it."""
        if self._session is not None:
            with suppress(pymysql.MySQLError):
                self._session.commit()
        self._drop_session()

    def _drop_session(self) -> None:
        if self._session is not None:
            with suppress(pymysql.MySQLError):
                self._session.close()
            self._session = None

    def _rows(self, connection: pymysql.Connection[Any], sql: str) -> list[str]:
        """A statement's result, as `row_texts`. A session with too many more rows to skip is closed."""
        cursor = connection.cursor()
        cursor.execute(sql)
        if not cursor.description:
            return ["[]"]
        texts = row_texts(cursor)
        if connection is self._session and not self._skips_rest(cursor):
            self._drop_session()
        return texts

    def _skips_rest(self, cursor: _PartialCursor) -> bool:
        """Read the rows that are not shown, so that the session can be used again; returns whether it can."""
        deadline = time.monotonic() + self._seconds
        try:
            for _ in range(_MOST_ROWS):
                if cursor.fetchone() is None:
                    return True
                if time.monotonic() > deadline:
                    return False
        except _STATEMENT_ERRORS:
            return False
        return False

    def _message(self, error: Exception) -> str:
        """An error as MySQL's own clients write it; the name of the database is replaced by the table's.

        Raises:
            InfrastructureError: the error is the server's, not the statement's.
        """
        if not isinstance(error, pymysql.MySQLError):
            self._drop_session()  # it may be in the middle of a result
            return f"HY000: {error}"
        code, *rest = error.args or (0,)
        if code == ER.CON_COUNT_ERROR:
            raise InfrastructureError(f"database: {self._server.label}: {error}") from error
        if not isinstance(code, int) or 2000 <= code < 3000:  # an error of the client: the connection was lost
            self._drop_session()
            self._server.kill_statements(self._name)
            return "1969 (70100): Query execution was interrupted (max_statement_time exceeded)"
        if code == _KILLED:
            self._drop_session()
        state = getattr(error, "sqlstate", None) or "HY000"
        return f"{code} ({state}): {' '.join(map(str, rest))}".replace(self._name, self._table.name)


def _is_the_tables(error: pymysql.MySQLError) -> bool:
    """Whether a table causes the error of the statement that creates or fills it."""
    code, message = error.args[0], str(error.args[-1])
    too_large = "File name too long" in message or "Too many columns" in message
    return code in _TABLE_ERRORS or (code == ER.CANT_CREATE_TABLE and too_large)


class _PartialCursor(SSCursor):
    """A cursor that reads rows on demand; closing it skips the rest, because its connection is closed, too."""

    _result: Any
    connection: Any  # None once it is closed

    def close(self) -> None:
        if self._result is not None:
            self._result.unbuffered_active = False
        self.connection = None

    __del__ = close


def _creation(table: Table) -> list[str]:
    """The statements that create and fill a table, in MySQL's dialect."""
    columns = [_quoted(column) for column in table.columns]
    statements = [f"CREATE TABLE {_quoted(table.name)} ({','.join(f'{column} TEXT' for column in columns)})"]
    if table.rows:
        rows = ",".join(f"({','.join(map(_literal, row))})" for row in table.rows)
        statements.append(f"INSERT INTO {_quoted(table.name)} ({','.join(columns)}) VALUES {rows}")
    return statements


def _quoted(name: str) -> str:
    """A name as an SQL identifier."""
    return "`" + name.replace("`", "``") + "`"


def _literal(cell: str | None) -> str:
    return "NULL" if cell is None else f"'{escape_string(cell)}'"
