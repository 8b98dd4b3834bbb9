"""A database server: one of this process's own, unprivileged and thrown away at the end, or one that stands already.

The own one is started when it is first asked for: a MariaDB in a temporary folder, reachable through a socket in it
and over no network. It ends with this process, however that ends, and its folder with it.
"""

from __future__ import annotations

import atexit
import os
import pwd
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pymysql
from pymysql.constants import ER
from pymysql.cursors import Cursor

from cycleqd_merge.errors import InfrastructureError, UserError

URL_VARIABLE = "CYCLEQD_MYSQL_URL"
"""Names a server to use instead of an own one: `mysql://user:password@host:port`, a user who may make users."""

PREFIX = "cycleqd"
"""What names of samples' databases and users begin with."""
SQL_MODE = "NO_ENGINE_SUBSTITUTION"
INSTALL = "install MariaDB: `apt install mariadb-server`"

_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin", "/usr/libexec"))
LARGEST = 256 << 20
"""Bytes that a sample's database may grow to; a limit of the file system would take the server down."""
_PATIENCE = 60.0
_OPTIONS = (
    "--skip-networking",
    f"--sql-mode={SQL_MODE}",
    "--character-set-server=utf8mb4",
    "--local-infile=0",
    "--symbolic-links=0",
    "--event-scheduler=DISABLED",
    "--performance-schema=OFF",
    "--max-connections=1000",
    "--max-session-mem-used=536870912",
    "--maximum-max-heap-table-size=67108864",
    "--tmp-disk-table-size=268435456",
    "--innodb-temp-data-file-path=ibtmp1:12M:autoextend:max:1G",
    "--innodb-flush-log-at-trx-commit=0",  # nothing here needs to outlive the process
    "--innodb-doublewrite=0",
    "--innodb-log-file-size=64M",
)
# A shell stays between: when this process is gone, its end of the pipe is too, and the server follows. `exec` makes
# the server the shell's own process, so that its exit is seen here.
_GUARD = """
exec 3<&0 </dev/null
{ read -r _ <&3; kill $$; while kill -0 $$; do sleep 0.1; done; rm -rf -- "$0"; } >/dev/null 2>&1 &
exec 3<&- "$@"
"""


@dataclass(frozen=True)
class Server:
    """How to reach a server as a user who may make users and databases."""

    connection: Mapping[str, Any]
    """Keyword arguments of `pymysql.connect`."""
    label: str
    """What it is, without its password."""

    def connect(self, **options: Any) -> pymysql.Connection[Any]:
        """A connection; `options` as of `pymysql.connect`, by default the administrator's.

        Raises:
            pymysql.MySQLError: it is refused, or the server does not answer.
        """
        ours = {"charset": "utf8mb4", "autocommit": True, "local_infile": False, "sql_mode": SQL_MODE}
        return pymysql.connect(**{**self.connection, **ours, "connect_timeout": _PATIENCE, **options})

    @contextmanager
    def administer(self, **options: Any) -> Iterator[Cursor]:
        """A cursor of the administrator's.

        Raises:
            InfrastructureError: the server does not answer, or refuses what is asked of it.
        """
        try:
            with self.connect(**options) as connection, connection.cursor() as cursor:
                yield cursor
        except (pymysql.MySQLError, OSError) as error:
            raise InfrastructureError(f"database: {self.label}: {error}") from error

    def end_statements(self, user: str) -> None:
        """End what a user's connections are at.

        Raises:
            InfrastructureError: as `administer`.
        """
        with self.administer() as cursor:
            cursor.execute("SELECT id FROM information_schema.processlist WHERE user = %s", [user])
            for (number,) in cursor.fetchall():
                try:
                    cursor.execute(f"KILL {number}")
                except pymysql.MySQLError as error:
                    if error.args[0] != ER.NO_SUCH_THREAD:  # it may end by itself meanwhile
                        raise


def require_server() -> str:
    """What samples' tables would stand on, in one line; nothing is started.

    Raises:
        UserError: MariaDB is not installed, or the server that is given does not answer or is no MySQL or MariaDB.
    """
    if URL_VARIABLE in os.environ:
        given = _given(os.environ[URL_VARIABLE])
        try:
            with given.administer() as cursor:
                cursor.execute("SELECT VERSION()")
                return f"{cursor.fetchall()[0][0]} at {given.label}"
        except InfrastructureError as error:
            raise UserError(f"{URL_VARIABLE}: {error}") from error
    _program("mariadb-install-db")
    version = subprocess.run([_program("mariadbd"), "--version"], capture_output=True, text=True, check=False).stdout
    return " ".join(version.split()[1:3]).replace("Ver", "private MariaDB").strip() or "private MariaDB"


_lock = threading.Lock()
_private: PrivateServer | None = None


def server() -> Server:
    """The server of this process: the one that is given, or its own, started if it does not run yet.

    Raises:
        UserError: MariaDB is not installed.
        InfrastructureError: it does not start.
    """
    global _private
    if URL_VARIABLE in os.environ:
        return _given(os.environ[URL_VARIABLE])
    with _lock:
        if _private is None or _private.ended:
            _private = PrivateServer()
            atexit.register(_private.stop)
        return _private.server


class PrivateServer:
    """A MariaDB of this process's own.

    Raises:
        UserError: MariaDB is not installed.
        InfrastructureError: it does not start.
    """

    def __init__(self) -> None:
        user = _unprivileged()
        self.folder = Path(tempfile.mkdtemp(prefix="cycleqd-mariadb-"))
        connection = {"unix_socket": str(self.folder / "socket"), "user": "root", "ssl_disabled": True}
        self.server = Server(connection, "the private MariaDB")
        data = self.folder / "data"
        data.mkdir()
        if user is not None:
            for path in (self.folder, data):
                os.chown(path, user.pw_uid, user.pw_gid)
        own: dict[str, Any] = {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._install(data, own)
            self._start(data, own)
            threading.Thread(target=self._watch, args=(data,), name="mariadb", daemon=True).start()
        except BaseException:
            self.stop()
            raise

    def _install(self, data: Path, own: Mapping[str, Any]) -> None:
        command = [_program("mariadb-install-db"), "--no-defaults", f"--datadir={data}", "--skip-test-db"]
        command.append("--auth-root-authentication-method=normal")  # the folder's permissions keep others out
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=self.folder, **own)
        if done.returncode != 0:
            raise InfrastructureError(f"database: mariadb-install-db failed: {_last_line(done.stdout + done.stderr)}")

    def _start(self, data: Path, own: Mapping[str, Any]) -> None:
        log = self.folder / "log"
        places = [f"--datadir={data}", f"--tmpdir={data}", f"--socket={self.folder / 'socket'}"]
        server = [_program("mariadbd"), "--no-defaults", *places]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _GUARD, str(self.folder), *server, *_OPTIONS],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                start_new_session=True,  # Ctrl-C is for the run, which ends this server in its own time
                **own,
            )
        limit = time.monotonic() + _PATIENCE
        while True:
            try:
                return self.server.connect().close()
            except pymysql.MySQLError as error:
                if self.ended or time.monotonic() > limit:
                    reason = _last_line(log.read_text(errors="replace"))
                    raise InfrastructureError(f"database: MariaDB does not start: {reason}") from error
            time.sleep(0.02)

    def _watch(self, data: Path) -> None:
        """End the statements of samples whose database grows too large. A database has its user's name."""
        while not self.ended:
            time.sleep(0.2)
            for folder in data.glob(f"{PREFIX}*"):
                with suppress(OSError, InfrastructureError):  # of a database or a server that is gone meanwhile
                    if sum(file.stat().st_size for file in folder.iterdir()) > LARGEST:
                        self.server.end_statements(folder.name)

    @property
    def ended(self) -> bool:
        """Whether it runs no more."""
        return self._process is None or self._process.poll() is not None

    def stop(self) -> None:
        """End it, if it runs, and remove its folder."""
        if self._process is not None:
            if not self.ended:
                try:
                    with self.server.administer() as cursor:
                        cursor.execute("SHUTDOWN")
                    self._process.wait(_PATIENCE)
                except (InfrastructureError, subprocess.TimeoutExpired):
                    self._process.kill()
                    self._process.wait()
            assert self._process.stdin is not None
            self._process.stdin.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _given(url: str) -> Server:
    parts = urlsplit(url)
    try:
        port = parts.port or 3306
    except ValueError:
        port = 0
    if parts.scheme != "mysql" or not parts.hostname or not port:
        raise UserError(f"{URL_VARIABLE}: write mysql://user:password@host:port")
    user, password = unquote(parts.username or "root"), unquote(parts.password or "")
    connection = {"host": parts.hostname, "port": port, "user": user, "password": password}
    return Server(connection, f"{parts.hostname}:{port}")


def _program(name: str) -> str:
    found = shutil.which(name, path=_PATH)
    if found is None:
        raise UserError(f"database: {name} is not installed; {INSTALL}, or name a server in ${URL_VARIABLE}")
    return found


def _unprivileged() -> pwd.struct_passwd | None:
    """Whom to be instead of root; None if this process is not root."""
    if os.geteuid() != 0:
        return None
    for name in ("mysql", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise UserError("database: root runs no database server; add a user named `mysql`")


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "it says nothing")
