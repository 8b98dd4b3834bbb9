"""Connections to a MariaDB or MySQL server, as a user who may create users and databases."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

import pymysql
from pymysql.constants import ER
from pymysql.cursors import Cursor

from cycleqd_merge.errors import InfrastructureError
from cycleqd_merge.tasks.database.sample_database import ServerCrashed

URL_VARIABLE = "CYCLEQD_MYSQL_URL"
"""Environment variable that names an existing server: `mysql://user:password@host:port`."""
PREFIX = "cycleqd"
"""Prefix of the names of samples' databases and users."""
SQL_MODE = "NO_ENGINE_SUBSTITUTION"
_CONNECT_SECONDS = 60.0
_STATEMENT_SECONDS, _LOCK_SECONDS = 60, 10
"""Limits of the administrator's statements, which a sample's locks and load could delay for a day."""
_END_SECONDS = 10.0
"""Time that a killed statement gets to end."""
_LIMITS = (
    # the first comment is for MariaDB only, the second for MySQL only
    f"SET SESSION /*M! max_statement_time={_STATEMENT_SECONDS}, */ "
    f"/*!50708 max_execution_time={1000 * _STATEMENT_SECONDS}, */ "
    f"lock_wait_timeout={_LOCK_SECONDS}, innodb_lock_wait_timeout={_LOCK_SECONDS}"
)


@dataclass(frozen=True)
class Server:
    """The address of a server.

    connection: keyword arguments of `pymysql.connect`. label: for messages, without the password. abandoned: databases
    that could not be removed. crashed: whether a server that does not respond has ended.
    """

    connection: Mapping[str, Any] = field(repr=False)
    label: str
    abandoned: set[str] = field(default_factory=set, compare=False)
    crashed: Callable[[], bool] = field(default=lambda: False, compare=False, repr=False)

    @classmethod
    def at(cls, url: str) -> Server:
        """The server at `mysql://user:password@host:port`.

        Raises:
            ValueError: the URL has a different form.
        """
        parts = urlsplit(url)
        port = parts.port or 3306
        if parts.scheme != "mysql" or not parts.hostname:
            raise ValueError(url)
        user, password = unquote(parts.username or "root"), unquote(parts.password or "")
        connection = {"host": parts.hostname, "port": port, "user": user, "password": password}
        return cls(connection, f"{parts.hostname}:{port}")

    def connect(self, **options: Any) -> pymysql.Connection[Any]:
        """A connection as the administrator. options: further arguments of `pymysql.connect`.

        Raises:
            pymysql.MySQLError: the server does not respond, or refuses the connection.
        """
        defaults = {"charset": "utf8mb4", "autocommit": True, "local_infile": False, "sql_mode": SQL_MODE}
        return pymysql.connect(**{**self.connection, **defaults, "connect_timeout": _CONNECT_SECONDS, **options})

    @contextmanager
    def administer(self, **options: Any) -> Iterator[Cursor]:
        """A cursor of the administrator, whose statements end within a minute. options: as in `connect`.

        Raises:
            ServerCrashed: the server has ended.
            InfrastructureError: the server does not respond, or rejects a statement.
        """
        limits = {"read_timeout": _STATEMENT_SECONDS + 5, "write_timeout": _STATEMENT_SECONDS, "init_command": _LIMITS}
        try:
            with self.connect(**limits, **options) as connection, connection.cursor() as cursor:
                yield cursor
        except (pymysql.MySQLError, OSError) as error:
            lost = not isinstance(error, pymysql.MySQLError) or 2000 <= error.args[0] < 3000
            kind = ServerCrashed if lost and self.crashed() else InfrastructureError
            raise kind(f"database: {self.label}: {error}") from error

    def kill_statements(self, user: str) -> None:
        """Kill a user's running statements and connections.

        Raises:
            InfrastructureError: as `administer`.
        """
        with self.administer() as cursor:
            cursor.execute("SELECT id FROM information_schema.processlist WHERE user = %s", [user])
            for (number,) in cursor.fetchall():
                try:
                    cursor.execute(f"KILL {number}")
                except pymysql.MySQLError as error:
                    if error.args[0] != ER.NO_SUCH_THREAD:  # it may have ended by now
                        raise

    def end_sessions(self, user: str) -> None:
        """Kill a user's connections, and wait until they are closed.

        Raises:
            InfrastructureError: as `administer`, or a connection is still open after seconds.
        """
        deadline = time.monotonic() + _END_SECONDS
        while True:
            self.kill_statements(user)
            with self.administer() as cursor:
                cursor.execute("SELECT COUNT(*) FROM information_schema.processlist WHERE user = %s", [user])
                if cursor.fetchall() == ((0,),):
                    return
            if time.monotonic() > deadline:
                raise InfrastructureError(f"database: {self.label}: a statement of {user} does not end")
            time.sleep(0.02)

    def prepared_transactions(self) -> set[str]:
        """The XA transactions that are prepared, as `XA ROLLBACK` names them. Such a transaction outlives its session.

        Raises:
            InfrastructureError: as `administer`.
        """
        with self.administer() as cursor:
            cursor.execute("XA RECOVER")
            return {_xid(*row) for row in cursor.fetchall()}

    def roll_back(self, transactions: set[str]) -> None:
        """Roll back prepared transactions, except those whose session is still open.

        Raises:
            InfrastructureError: as `administer`.
        """
        with self.administer() as cursor:
            for each in transactions:
                try:
                    cursor.execute(f"XA ROLLBACK {each}")
                except pymysql.MySQLError as error:
                    if error.args[0] != ER.XAER_NOTA:  # of an open session, or rolled back by now
                        raise


def _xid(number: int, first: int, second: int, data: bytes | str) -> str:
    """The name of an XA transaction in SQL, from a line of `XA RECOVER`. first, second: lengths of its two parts."""
    content = data.encode("latin-1") if isinstance(data, str) else data
    return f"X'{content[:first].hex()}',X'{content[first : first + second].hex()}',{number}"
