"""Connections to a MariaDB or MySQL server, as a user who may create users and databases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

import pymysql
from pymysql.constants import ER
from pymysql.cursors import Cursor

from cycleqd_merge.errors import InfrastructureError

URL_VARIABLE = "CYCLEQD_MYSQL_URL"
"""Environment variable that names an existing server: `mysql://user:password@host:port`."""
PREFIX = "cycleqd"
"""Prefix of the names of samples' databases and users."""
SQL_MODE = "NO_ENGINE_SUBSTITUTION"
_CONNECT_SECONDS = 60.0


@dataclass(frozen=True)
class Server:
    """The address of a server.

    connection: keyword arguments of `pymysql.connect`. label: for messages, without the password.
    """

    connection: Mapping[str, Any] = field(repr=False)
    label: str

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
        """A cursor of the administrator. options: as in `connect`.

        Raises:
            InfrastructureError: the server does not respond, or rejects a statement.
        """
        try:
            with self.connect(**options) as connection, connection.cursor() as cursor:
                yield cursor
        except (pymysql.MySQLError, OSError) as error:
            raise InfrastructureError(f"database: {self.label}: {error}") from error

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
