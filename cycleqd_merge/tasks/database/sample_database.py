"""A sample's private database: its table, the statements of a model on it, and the digest of what they leave."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pymysql
from pymysql.constants import CLIENT, ER
from pymysql.converters import escape_string
from pymysql.cursors import SSCursor

from cycleqd_merge.errors import InfrastructureError, UserError
from cycleqd_merge.tasks.database.mariadb import PREFIX, Server

SHOWN = 800
"""Characters of a result that a model gets to read."""

_RIGHTS = (
    "SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, ALTER, INDEX, REFERENCES, CREATE TEMPORARY TABLES, LOCK TABLES, "
    "CREATE VIEW, SHOW VIEW"
)
_FAULTS = (pymysql.MySQLError, ValueError, RuntimeError)  # a statement may ask for text that cannot be read


@dataclass(frozen=True)
class Table:
    """A table of text columns; a cell is None where the data has none."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | None, ...], ...]

    @classmethod
    def of(cls, stated: Mapping[str, Any]) -> Table:
        """The `table` of an AgentBench row, made fit to stand in a database.

        A column without a name or with that of another is given one; rows are filled up or cut to the columns, and
        those without a cell are left out.

        Raises:
            UserError: there is no name, or there are no columns.
        """
        try:
            name, info = str(stated["table_name"]), stated["table_info"]
            columns = _distinct(str(column["name"]) for column in info["columns"])
            cells = [[None if cell is None else str(cell) for cell in row] for row in info["rows"] if row]
        except (KeyError, TypeError) as error:
            raise UserError(f"table: not as in AgentBench: {error}") from None
        if not name or not columns:
            raise UserError("table: a table needs a name and columns")
        width = len(columns)
        return cls(name, columns, tuple((*row[:width], *[None] * (width - len(row))) for row in cells))


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    """Names of columns, in which a database tells neither case nor blanks at the end apart."""
    found: dict[str, str] = {}
    for place, name in enumerate(names, start=1):
        plain = name.rstrip() or f"column_{place}"
        free = plain if plain.lower() not in found else f"{plain}_{place}"
        found[free.lower()] = free
    return tuple(found.values())


class SampleDatabase(Protocol):
    """One sample's table in a database of its own. All methods block."""

    def execute(self, sql: str) -> str:
        """What the database says to one statement of a model: rows as Python shows them, or the error; cut short.

        Raises:
            InfrastructureError: the server is gone.
        """
        ...

    def digest(self) -> str | None:
        """AgentBench's MD5 of the table; None if it is gone or cannot be read any more.

        Raises:
            InfrastructureError: the server is gone.
        """
        ...

    def close(self) -> None:
        """Remove the database.

        Raises:
            InfrastructureError: the server is gone.
        """
        ...


class MariadbDatabase:
    """A `SampleDatabase` on a server, with a user of its own who sees nothing else.

    seconds: how long a statement may take. Every statement has a connection of its own: what it leaves behind is in
    the tables or nowhere.

    Raises:
        InfrastructureError: the server does not answer.
    """

    def __init__(self, server: Server, table: Table, seconds: float) -> None:
        self._server, self._table, self._seconds = server, table, seconds
        self._name = f"{PREFIX}{secrets.token_hex(8)}"  # no `_`, which GRANT reads as any letter
        self._password = secrets.token_urlsafe(16)
        statements = [
            f"CREATE DATABASE {self._name} CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci",
            f"CREATE USER {self._name} IDENTIFIED BY '{self._password}'",
            f"GRANT {_RIGHTS} ON {self._name}.* TO {self._name}",
            f"USE {self._name}",
            *creation(table),
        ]
        with server.administer(client_flag=CLIENT.MULTI_STATEMENTS) as cursor:
            cursor.execute(";".join(statements))
            while cursor.nextset():
                pass

    def execute(self, sql: str) -> str:
        try:
            return cut(self._rows(sql))
        except _FAULTS as error:
            return cut([self._reason(error)])

    def digest(self) -> str | None:
        columns = ",".join(map(quoted, self._table.columns))
        rows = f"SELECT SUBSTRING(MD5(CONCAT_WS(',', {columns})), 1, 5) AS rowhash FROM {quoted(self._table.name)}"
        try:
            return "".join(self._rows(f"SELECT MD5(GROUP_CONCAT(rowhash ORDER BY rowhash)) AS hash FROM ({rows}) AS t"))
        except _FAULTS as error:
            self._reason(error)
            return None

    def close(self) -> None:
        self._server.end_statements(self._name)
        with self._server.administer() as cursor:
            cursor.execute(f"DROP DATABASE IF EXISTS {self._name}")
            cursor.execute(f"DROP USER {self._name}")

    def _rows(self, sql: str) -> list[str]:
        """A result as its text in parts, read no further than it is shown."""
        limits = (
            # the first comment is for MariaDB alone, the second for MySQL alone
            f"SET SESSION /*M! max_statement_time={self._seconds}, */ "
            f"/*!50708 max_execution_time={round(1000 * self._seconds)}, */ group_concat_max_len=1048576"
        )
        connection = self._server.connect(
            user=self._name,
            password=self._password,
            read_timeout=self._seconds + 2,  # for statements that lift the server's limit
            cursorclass=_Beginning,
            init_command=limits,
        )
        try:
            connection.select_db(self._name)
            cursor = connection.cursor()
            cursor.execute(sql)
            return shown(cursor) if cursor.description else ["[]"]
        finally:
            connection.close()

    def _reason(self, error: Exception) -> str:
        """An error as MySQL's own clients write it, in which the database has the table's name."""
        if not isinstance(error, pymysql.MySQLError):
            return f"HY000: {error}"
        code, *rest = error.args or (0,)
        if code == ER.CON_COUNT_ERROR:
            raise InfrastructureError(f"database: {self._server.label}: {error}") from error
        if not isinstance(code, int) or 2000 <= code < 3000:  # a client's own: the connection was lost
            self._server.end_statements(self._name)
            return "1969 (70100): Query execution was interrupted (max_statement_time exceeded)"
        state = getattr(error, "sqlstate", None) or "HY000"
        return f"{code} ({state}): {' '.join(map(str, rest))}".replace(self._name, self._table.name)


class _Beginning(SSCursor):
    """Reads rows as they are asked for, and leaves the rest unread, for the connection is closed then."""

    _result: Any
    connection: Any  # none, once it is closed

    def close(self) -> None:
        if self._result is not None:
            self._result.unbuffered_active = False
        self.connection = None

    __del__ = close


def creation(table: Table) -> list[str]:
    """The statements that make a table and fill it, in MySQL's dialect."""
    columns = [quoted(column) for column in table.columns]
    statements = [f"CREATE TABLE {quoted(table.name)} ({','.join(f'{column} TEXT' for column in columns)})"]
    if table.rows:
        rows = ",".join(f"({','.join(map(_literal, row))})" for row in table.rows)
        statements.append(f"INSERT INTO {quoted(table.name)} ({','.join(columns)}) VALUES {rows}")
    return statements


def quoted(name: str) -> str:
    """A name as an identifier."""
    return "`" + name.replace("`", "``") + "`"


def _literal(cell: str | None) -> str:
    return "NULL" if cell is None else f"'{escape_string(cell)}'"


def shown(rows: Iterable[Sequence[Any]]) -> list[str]:
    """A list of rows as Python shows it, in parts, read no further than a model gets to read."""
    parts, length = ["["], 0
    for row in rows:
        parts += [", "] * (length > 0) + [repr(tuple(row))]
        length += len(parts[-1])
        if length > SHOWN:
            break
    return [*parts, "]"]


def cut(parts: Iterable[str]) -> str:
    """A text as a model gets to read it."""
    text = "".join(parts)
    return text if len(text) <= SHOWN else text[:SHOWN] + "[TRUNCATED]"
