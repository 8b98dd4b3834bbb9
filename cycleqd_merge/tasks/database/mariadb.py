"""The MariaDB server that samples use: a private one of this process, or an existing one named in the environment."""

from __future__ import annotations

import atexit
import os
import subprocess
import threading

from cycleqd_merge.errors import InfrastructureError, TaskError
from cycleqd_merge.tasks.database.private_server import PrivateServer, find_program
from cycleqd_merge.tasks.database.server import URL_VARIABLE, Server

_lock = threading.Lock()
_private: PrivateServer | None = None


def require_server() -> str:
    """A one-line description of the server that samples will use; nothing is started.

    Raises:
        TaskError: MariaDB is not installed, or the existing server does not respond.
    """
    if URL_VARIABLE in os.environ:
        existing = _existing(os.environ[URL_VARIABLE])
        try:
            with existing.administer() as cursor:
                cursor.execute("SELECT VERSION()")
                return f"{cursor.fetchall()[0][0]} at {existing.label}"
        except InfrastructureError as error:
            raise TaskError(f"{URL_VARIABLE}: {error}") from error
    find_program("mariadb-install-db")
    command = [find_program("mariadbd"), "--version"]
    version = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return " ".join(version.split()[1:3]).replace("Ver", "private MariaDB").strip() or "private MariaDB"


def mariadb_server() -> Server:
    """The server of this process: the existing one named in the environment, or a private one, started if necessary.

    A private one with an abandoned database is replaced; it ends when its other databases are closed.

    Raises:
        TaskError: MariaDB is not installed.
        InfrastructureError: the private server does not start.
    """
    global _private
    if URL_VARIABLE in os.environ:
        return _existing(os.environ[URL_VARIABLE])
    with _lock:
        if _private is None or _private.ended or _private.server.abandoned:
            _private = PrivateServer()
            atexit.register(_private.stop)
        return _private.server


def own_server() -> PrivateServer:
    """A private server for one sample, whose caller stops it. Raises as `mariadb_server`."""
    server = PrivateServer()
    atexit.register(server.stop)
    return server


def _existing(url: str) -> Server:
    try:
        return Server.at(url)
    except ValueError:
        raise TaskError(f"{URL_VARIABLE}: not a server's address; write mysql://user:password@host:port") from None
