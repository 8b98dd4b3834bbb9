"""A private MariaDB server: unprivileged, in a temporary folder, listening on a socket in that folder only.

It ends with this process, however that ends, and its folder is removed.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pymysql

from cycleqd_merge.errors import InfrastructureError, TaskError
from cycleqd_merge.tasks.database.server import PREFIX, SQL_MODE, URL_VARIABLE, Server

LARGEST = 256 << 20
"""Bytes that a sample's database may grow to. A full disk would end the server instead of the statement."""
INSTALL = "install MariaDB: `apt install mariadb-server`"

_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin", "/usr/libexec"))
_WAIT_SECONDS = 60.0
_CRASH_SECONDS = 10.0  # it writes to its log first
_IDLE_ROUNDS = 10  # of a fifth of a second
_TEMPORARY = re.compile(r"#sql-temptable-[0-9a-f]+-([0-9a-f]+)-")
_LARGEST_TRANSACTION = (
    "SELECT trx_mysql_thread_id FROM information_schema.innodb_trx WHERE trx_mysql_thread_id > 0 "
    "ORDER BY trx_rows_modified DESC LIMIT 1"
)
_LIKELY_SORTER = (
    "SELECT p.id FROM information_schema.processlist p "
    "LEFT JOIN information_schema.innodb_trx t ON t.trx_mysql_thread_id = p.id "
    f"WHERE p.user LIKE '{PREFIX}%' AND p.command <> 'Sleep' "
    "ORDER BY IFNULL(t.trx_unique_checks + t.trx_foreign_key_checks, 1) = 0 DESC, p.state LIKE '%sort%' DESC, "
    "p.time_ms DESC LIMIT 1"
)
"""Of the sessions that run a statement: one that loads rows in bulk, which needs both checks off, else one that sorts,
else the one that has run the longest."""
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
    "--tmp-disk-table-size=268435456",
    # what sessions may set these to
    "--maximum-max-session-mem-used=536870912",
    "--maximum-max-heap-table-size=67108864",
    "--maximum-tmp-memory-table-size=67108864",
    "--maximum-tmp-disk-table-size=268435456",
    "--maximum-sort-buffer-size=67108864",
    "--maximum-join-buffer-size=67108864",
    "--loose-max-tmp-session-space-usage=536870912",  # since MariaDB 11.5
    "--loose-innodb-alter-copy-bulk=OFF",  # CREATE TABLE ... SELECT would sort its rows in files without a name
    "--innodb-temp-data-file-path=ibtmp1:12M:autoextend:max:1G",
    "--innodb-flush-log-at-trx-commit=0",  # the data need not outlive the process
    "--innodb-doublewrite=0",
    "--innodb-log-file-size=64M",
)
# A shell watches a pipe to this process: when the process is gone, it ends the server and removes the folder. The
# server takes the shell's place by `exec`, so that this process sees its exit.
_WATCHDOG = """
exec 3<&0 </dev/null
{ read -r _ <&3; kill $$; while kill -0 $$; do sleep 0.1; done; rm -rf -- "$0"; } >/dev/null 2>&1 &
exec 3<&- "$@"
"""


class PrivateServer:
    """A running MariaDB server of this process.

    folder: its files. server: its address.

    Raises:
        TaskError: MariaDB is not installed.
        InfrastructureError: it does not start.
    """

    def __init__(self) -> None:
        user = _unprivileged_user()
        self.folder = Path(tempfile.mkdtemp(prefix="cycleqd-mariadb-"))
        connection = {"unix_socket": str(self.folder / "socket"), "user": "root", "ssl_disabled": True}
        self.server = Server(connection, "the private MariaDB", crashed=self._crashed)
        data, temporary = self.folder / "data", self.folder / "tmp"
        data.mkdir()
        temporary.mkdir()
        if user is not None:
            for path in (self.folder, data, temporary):
                os.chown(path, user.pw_uid, user.pw_gid)
        run_as: dict[str, Any] = {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        self._process: subprocess.Popen[bytes] | None = None
        self._largest_undo_log = 2 * LARGEST
        try:
            self._install(data, run_as)
            self._start(data, run_as)
            threading.Thread(target=self._watch, args=(data, temporary), name="mariadb", daemon=True).start()
        except BaseException:
            self.stop()
            raise

    def _install(self, data: Path, run_as: Mapping[str, Any]) -> None:
        command = [find_program("mariadb-install-db"), "--no-defaults", f"--datadir={data}", "--skip-test-db"]
        command.append("--auth-root-authentication-method=normal")  # the folder's permissions keep other users out
        command.append(f"--tmpdir={self.folder / 'tmp'}")  # another server that starts removes temporary tables in /tmp
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=self.folder, **run_as)
        if done.returncode != 0:
            raise InfrastructureError(f"database: mariadb-install-db failed: {_last_line(done.stdout + done.stderr)}")

    def _start(self, data: Path, run_as: Mapping[str, Any]) -> None:
        log = self.folder / "log"
        paths = [f"--datadir={data}", f"--tmpdir={self.folder / 'tmp'}", f"--socket={self.folder / 'socket'}"]
        server = [find_program("mariadbd"), "--no-defaults", *paths]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _WATCHDOG, str(self.folder), *server, *_OPTIONS],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                start_new_session=True,  # Ctrl-C ends the run, which then stops the server
                **run_as,
            )
        deadline = time.monotonic() + _WAIT_SECONDS
        while True:
            try:
                with self.server.connect() as connection, connection.cursor() as cursor:
                    # tables of the engine MEMORY would count towards no limit; a user cannot change this
                    cursor.execute("SET GLOBAL enforce_storage_engine=InnoDB")
                return
            except pymysql.MySQLError as error:
                if self.ended or time.monotonic() > deadline:
                    reason = _last_line(log.read_text(errors="replace"))
                    raise InfrastructureError(f"database: MariaDB does not start: {reason}") from error
            time.sleep(0.02)

    def _watch(self, data: Path, temporary: Path) -> None:
        """Kill what grows too large; end the server when only abandoned databases are left on it for a while."""
        idle = 0
        while not self.ended:
            time.sleep(0.2)
            with suppress(OSError, InfrastructureError, pymysql.MySQLError):  # the server may be gone by now
                self._limit_tables(data)
                self._limit_temporary_tables(temporary)
                self._limit_undo_log(data)
                self._limit_unnamed_files()
            left = {folder.name for folder in data.glob(f"{PREFIX}*")} - self.server.abandoned
            idle = idle + 1 if self.server.abandoned and not left else 0
            if idle > _IDLE_ROUNDS and self._process is not None:
                self._process.kill()

    def _limit_tables(self, data: Path) -> None:
        """Kill the statements of samples whose database grows too large. A database has the name of its user."""
        for folder in data.glob(f"{PREFIX}*"):
            with suppress(FileNotFoundError):  # a table or the database may be gone by now
                if sum(file.stat().st_size for file in folder.iterdir()) > LARGEST:
                    self.server.kill_statements(folder.name)

    def _limit_temporary_tables(self, temporary: Path) -> None:
        """Kill the sessions whose temporary tables grow too large. A table's file has the number of its session."""
        sizes: Counter[int] = Counter()
        for file in temporary.iterdir():
            if (name := _TEMPORARY.match(file.name)) is not None:
                with suppress(FileNotFoundError):
                    sizes[int(name[1], 16)] += file.stat().st_size
        for session in (number for number, size in sizes.items() if size > LARGEST):
            with self.server.administer() as cursor:
                cursor.execute(f"KILL {session}")

    def _limit_undo_log(self, data: Path) -> None:
        """Kill the session with the largest transaction when the undo log has grown; its files never shrink.

        New samples get a new server then.
        """
        size = sum(file.stat().st_size for file in (*data.glob("ibdata*"), *data.glob("undo*")))
        if size > self._largest_undo_log:
            self._largest_undo_log = size + LARGEST
            self.server.abandoned.add("the undo log")
            self._close_session(_LARGEST_TRANSACTION)

    def _limit_unnamed_files(self) -> None:
        """Kill the session that sorts too much: the server deletes the files for that as soon as they are open."""
        if self._process is None:
            return
        size = 0
        for opened in Path(f"/proc/{self._process.pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                found = opened.stat()
                size += 0 if found.st_nlink else found.st_size
        if size > LARGEST:
            self._close_session(_LIKELY_SORTER)

    def _close_session(self, query: str) -> None:
        """Kill the session whose number a query returns, if it returns one."""
        with self.server.administer() as cursor:
            cursor.execute(query)
            for (session,) in cursor.fetchall():
                cursor.execute(f"KILL {session}")

    def _crashed(self) -> bool:
        """Whether the server, which has stopped responding, has ended by itself, or does so in seconds.

        One that was killed from outside, as for lack of memory, has not crashed.
        """
        if self._process is None:
            return False
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(_CRASH_SECONDS) not in (-signal.SIGKILL, -signal.SIGTERM)
        return False

    @property
    def ended(self) -> bool:
        """Whether the server is no longer running."""
        return self._process is None or self._process.poll() is not None

    def stop(self) -> None:
        """Stop the server, if it is running, and remove its folder."""
        if self._process is not None:
            if not self.ended:
                try:
                    if self.server.abandoned:  # it would wait for a statement that does not end
                        self._process.kill()
                    with self.server.administer() as cursor:
                        cursor.execute("SHUTDOWN")
                    self._process.wait(_WAIT_SECONDS)
                except (InfrastructureError, subprocess.TimeoutExpired):
                    self._process.kill()
                    self._process.wait()
            assert self._process.stdin is not None
            self._process.stdin.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def find_program(name: str) -> str:
    """The path of a program of MariaDB.

    Raises:
        TaskError: it is not installed.
    """
    found = shutil.which(name, path=_PATH)
    if found is None:
        raise TaskError(f"database: {name} is not installed; {INSTALL}, or set ${URL_VARIABLE} to a server's address")
    return found


def _unprivileged_user() -> pwd.struct_passwd | None:
    """The user to run the server as, if this process is root; else None."""
    if os.geteuid() != 0:
        return None
    for name in ("mysql", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise TaskError("database: MariaDB cannot run as root; add a user named `mysql`")


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "no output")
