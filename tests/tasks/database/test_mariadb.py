"""A model's SQL stays in its sample's database; the private server is isolated and ends with its process."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import psutil
import pytest

from cycleqd_merge.errors import TaskError
from cycleqd_merge.tasks.database import mariadb, private_server
from cycleqd_merge.tasks.database.mariadb_database import MariadbDatabase
from cycleqd_merge.tasks.database.private_server import PrivateServer
from cycleqd_merge.tasks.database.server import URL_VARIABLE
from cycleqd_merge.tasks.database.table import Table
from tests.components import require
from tests.tasks.agentbench import CELLS, COLUMNS, NAME, digest

TABLE = Table(NAME, COLUMNS, CELLS)
SECONDS = 1.0


@pytest.fixture(scope="module")
def server() -> Iterator[PrivateServer]:
    require("mariadb")
    private = PrivateServer()
    yield private
    private.stop()


@pytest.fixture
def databases(server: PrivateServer) -> Iterator[tuple[MariadbDatabase, MariadbDatabase]]:
    """The database that a model works on, and one of another sample."""
    with ExitStack() as stack:
        made = [stack.enter_context(closing(MariadbDatabase(server.server, TABLE, SECONDS))) for _ in range(2)]
        yield made[0], made[1]


def administered(server: PrivateServer, sql: str) -> object:
    with server.server.administer() as cursor:
        cursor.execute(sql)
        return cursor.fetchall()


SETTINGS = "SELECT @@GLOBAL.max_connections, @@GLOBAL.sql_mode, @@GLOBAL.max_statement_time, @@GLOBAL.local_infile"
DENIED = r"^\d{4} \(.{5}\): .*(denied|no permission|not allowed|disabled|unknown|option prevents)"
ATTACKS = {
    "another sample": "SELECT * FROM `{other}`.`Jazz Albums`",
    "another sample's table": "DROP TABLE `{other}`.`Jazz Albums`",
    "another sample's database": "DROP DATABASE `{other}`",
    "another sample's user": "DROP USER `{other}`",
    "the users": "SELECT * FROM mysql.global_priv",
    "a new user": "CREATE USER villain",
    "rights": "GRANT ALL ON *.* TO CURRENT_USER()",
    "a new database": "CREATE DATABASE villain",
    "outfile": "SELECT 1 INTO OUTFILE '{folder}/stolen'",
    "dumpfile": "SELECT 1 INTO DUMPFILE '{folder}/stolen'",
    "load data": "LOAD DATA INFILE '/etc/passwd' INTO TABLE `Jazz Albums`",
    "load local data": "LOAD DATA LOCAL INFILE '/etc/passwd' INTO TABLE `Jazz Albums`",
    "global setting": "SET GLOBAL max_connections = 1",
    "global mode": "SET GLOBAL sql_mode = 'ANSI'",
    "shutdown": "SHUTDOWN",
    "plugin": "INSTALL SONAME 'ha_connect'",
    "function": "CREATE FUNCTION sys_exec RETURNS INTEGER SONAME 'lib_mysqludf_sys.so'",
    "procedure": "CREATE PROCEDURE p() SELECT 1",
    "event": "CREATE EVENT e ON SCHEDULE EVERY 1 SECOND DO SELECT 1",
    "trigger": "CREATE TRIGGER t AFTER INSERT ON `Jazz Albums` FOR EACH ROW SET @x = 1",
    "flush": "FLUSH TABLES WITH READ LOCK",
    "a remote table": "CREATE TABLE t (a INT) ENGINE=FEDERATED CONNECTION='mysql://root@localhost/mysql/user'",
    "replication": "CHANGE MASTER TO MASTER_HOST='localhost'",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_access_to_anything_else_is_denied(
    server: PrivateServer, databases: tuple[MariadbDatabase, MariadbDatabase], attack: str
) -> None:
    database, other = databases
    settings = administered(server, SETTINGS)
    result = database.execute(ATTACKS[attack].format(other=other._name, folder=server.folder))
    assert re.search(DENIED, result, re.IGNORECASE)
    assert database.digest() == other.digest() == digest(CELLS)
    assert administered(server, SETTINGS) == settings
    assert not (server.folder / "stolen").exists()


def test_files_are_neither_read_nor_created(
    server: PrivateServer, databases: tuple[MariadbDatabase, MariadbDatabase]
) -> None:
    assert databases[0].execute("SELECT LOAD_FILE('/etc/passwd')") == "[(None,)]"
    before = set(server.folder.iterdir())
    databases[0].execute(f"CREATE TABLE t (a INT) ENGINE=MyISAM DATA DIRECTORY='{server.folder}'")
    databases[0].execute(f"CREATE TABLE u (a INT) DATA DIRECTORY='{server.folder}'")
    assert set(server.folder.iterdir()) == before


def test_other_samples_are_not_visible(databases: tuple[MariadbDatabase, MariadbDatabase]) -> None:
    database, other = databases
    for sql in (
        "SHOW DATABASES",
        "SELECT user, db, info FROM information_schema.processlist",
        "SELECT table_schema FROM information_schema.tables",
        "SELECT grantee FROM information_schema.user_privileges",
    ):
        assert other._name not in database.execute(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT SLEEP(60)",
        "SET STATEMENT max_statement_time = 0 FOR SELECT SLEEP(60)",
        "SET STATEMENT max_statement_time = 0 FOR SELECT BENCHMARK(1e12, MD5('a'))",
        "SELECT COUNT(*) FROM seq_1_to_1000000 a, seq_1_to_1000000 b",
        "BEGIN NOT ATOMIC WHILE TRUE DO SET @x = 1; END WHILE; END",
        "INSERT INTO `Jazz Albums` SELECT REPEAT('x', 60000), a.Title, b.Title FROM "
        + ", ".join(f"information_schema.collations {letter}0" for letter in "cdef")
        + ", `Jazz Albums` a, `Jazz Albums` b",
    ],
)
def test_a_statement_ends_at_its_time_limit(
    server: PrivateServer, databases: tuple[MariadbDatabase, MariadbDatabase], sql: str
) -> None:
    start = time.monotonic()
    assert databases[0].execute(sql) == "1969 (70100): Query execution was interrupted (max_statement_time exceeded)"
    assert time.monotonic() - start < SECONDS + 20  # no statement runs for a minute, not even on a busy machine
    assert databases[0].digest() == databases[1].digest() == digest(CELLS)
    running = "SELECT COUNT(*) FROM information_schema.processlist WHERE user LIKE 'cycleqd%'"
    while administered(server, running) != ((0,),):  # a killed one may take a moment to notice
        assert time.monotonic() - start < SECONDS + 20
        time.sleep(0.05)


def test_a_server_uses_no_folder_but_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Servers that start at the same time would remove each other's temporary tables."""
    tempfile.gettempdir()  # decided before the variable changes
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    server = PrivateServer()
    with closing(MariadbDatabase(server.server, TABLE, SECONDS)) as database:
        assert database.digest() == digest(CELLS)
    server.stop()


FILL = "SELECT REPEAT('x', 60000) AS x, seq AS y, 1 AS z FROM seq_1_to_1000000"
EMPTY = "CREATE TABLE u (x LONGTEXT, y INT, z INT)"


@pytest.mark.parametrize(
    "statements",
    [
        [f"INSERT INTO `Jazz Albums` {FILL}"],
        [f"CREATE TABLE t {FILL}"],
        [EMPTY, f"SET STATEMENT unique_checks=0, foreign_key_checks=0 FOR INSERT INTO u {FILL}"],
        ["SELECT seq, REPEAT('x', 500) AS a FROM seq_1_to_100000000 ORDER BY RAND()"],
    ],
    ids=["insert", "create", "bulk", "sort"],
)
def test_a_database_cannot_grow_without_limit(
    statements: list[str], server: PrivateServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private_server, "LARGEST", 16 << 20)
    with ExitStack() as stack:
        filled, other = (stack.enter_context(closing(MariadbDatabase(server.server, TABLE, 60.0))) for _ in range(2))
        start = time.monotonic()
        result = [filled.execute(sql) for sql in statements][-1]
        assert time.monotonic() - start < 30  # long before its time limit
        assert re.search("interrupted|killed|Lost connection", result), result
        assert not server.ended
        assert other.digest() == digest(CELLS)


def test_tables_of_other_engines_are_refused(databases: tuple[MariadbDatabase, MariadbDatabase]) -> None:
    for engine in ("MyISAM", "MEMORY", "Aria"):
        assert databases[0].execute(f"CREATE TABLE t ENGINE={engine} SELECT 1").startswith("1290 (HY000)")


def test_excess_rows_are_not_read(databases: tuple[MariadbDatabase, MariadbDatabase]) -> None:
    before = psutil.Process().memory_info().rss
    result = databases[0].execute(
        "SET STATEMENT max_statement_time = 0 FOR SELECT REPEAT('x', 1000) FROM seq_1_to_100000000"
    )
    assert result == "[('" + "x" * 797 + "[TRUNCATED]"
    assert psutil.Process().memory_info().rss - before < 100 << 20


@pytest.mark.parametrize(
    ("sql", "result"),
    [
        ("DROP DATABASE `{name}`", "[]"),
        ("DROP TABLE `Jazz Albums`", "[]"),
        ("SET PASSWORD = PASSWORD('mine')", "[]"),
        ("KILL CONNECTION_ID()", "1927 (70100): Connection was killed"),
        ("CREATE OR REPLACE SQL SECURITY INVOKER VIEW v AS SELECT LOAD_FILE('/etc/passwd')", "[]"),
    ],
)
def test_damage_to_the_samples_own_database_affects_nothing_else(server: PrivateServer, sql: str, result: str) -> None:
    database = MariadbDatabase(server.server, TABLE, SECONDS)
    assert database.execute(sql.format(name=database._name)) == result
    assert database.digest() in (None, digest(CELLS))
    assert isinstance(database.execute("SELECT 1"), str)
    database.close()
    with closing(MariadbDatabase(server.server, TABLE, SECONDS)) as following:
        assert following.digest() == digest(CELLS)


@pytest.mark.parametrize(
    ("sql", "result"),
    [
        ("SET STATEMENT character_set_results = latin1 FOR SELECT 'é'", r"HY000: 'utf-8' codec can't decode"),
        (
            "SELECT 'é', x'ff', NULL, 1.50, 2e0, DATE '2024-02-03'",
            r"\[\('é', b'\\xff', None, Decimal\('1.50'\), 2.0, date",
        ),
        ("SELECT '\udcff'", r"\[|HY000|1\d{3}"),
        ("SELECT '\ud800'", "HY000: 'utf-8' codec can't encode"),
        ("SELECT '%s', '%d'", r"\[\('%s', '%d'\)\]"),
        ("", r"1065 \(42000\): Query was empty"),
    ],
)
def test_every_result_becomes_text(databases: tuple[MariadbDatabase, MariadbDatabase], sql: str, result: str) -> None:
    assert re.match(result, databases[0].execute(sql))


@pytest.mark.parametrize(
    ("statements", "result", "left"),
    [
        (("SET @m = (SELECT MAX(`No.`) FROM `Jazz Albums`)", "SELECT @m"), "[('2',)]", CELLS),
        (("CREATE TEMPORARY TABLE t AS SELECT * FROM `Jazz Albums`", "SELECT COUNT(*) FROM t"), "[(3,)]", CELLS),
        (("DELETE FROM `Jazz Albums` WHERE `No.` = '2'", "SELECT ROW_COUNT()"), "[(2,)]", CELLS[:1]),
        (("SELECT SQL_CALC_FOUND_ROWS 1 FROM `Jazz Albums` LIMIT 1", "SELECT FOUND_ROWS()"), "[(3,)]", CELLS),
        (("BEGIN", "DELETE FROM `Jazz Albums` WHERE `No.` = '2'", "COMMIT"), "[]", CELLS[:1]),
        (("BEGIN", "DELETE FROM `Jazz Albums`", "ROLLBACK"), "[]", CELLS),
        (("START TRANSACTION", "DELETE FROM `Jazz Albums` WHERE `No.` = '2'"), "[]", CELLS[:1]),  # committed at the end
        (("SET autocommit = 0", "DELETE FROM `Jazz Albums` WHERE `No.` = '2'"), "[]", CELLS[:1]),
        (("LOCK TABLES `Jazz Albums` WRITE", "SELECT 1"), "[(1,)]", CELLS),
        (("SET SESSION sql_mode = 'ANSI'", "SELECT @@sql_mode LIKE '%ANSI%'"), "[(1,)]", CELLS),
        (("SET SESSION group_concat_max_len = 4", "SELECT 1"), "[(1,)]", CELLS),  # the digest has its own session
        (("SET NAMES latin1", "SELECT 'é'", "SELECT 1"), "[(1,)]", CELLS),
        (("KILL CONNECTION_ID()", "SELECT 1"), "[(1,)]", CELLS),
        (("SET @m = 1", "SELECT REPEAT('x', 1000) FROM seq_1_to_5000", "SELECT @m"), "[(1,)]", CELLS),
        (("SET @m = 1", "SELECT seq FROM seq_1_to_1000000", "SELECT @m"), "[(None,)]", CELLS),  # too many rows to skip
    ],
)
def test_a_conversations_statements_share_a_session(
    databases: tuple[MariadbDatabase, MariadbDatabase],
    statements: tuple[str, ...],
    result: str,
    left: tuple[tuple[str, ...], ...],
) -> None:
    database, other = databases
    assert [database.execute(statement) for statement in statements][-1] == result
    assert database.digest() == digest(left)
    assert other.digest() == digest(CELLS)


def test_several_statements_at_once_are_refused(databases: tuple[MariadbDatabase, MariadbDatabase]) -> None:
    database, _ = databases
    assert database.execute("SELECT 1; DROP TABLE `Jazz Albums`").startswith("1064 (42000): You have an error in your")
    assert database.execute("SELECT 1;") == "[(1,)]"
    assert database.digest() == digest(CELLS)


def test_a_closed_database_leaves_nothing_behind(server: PrivateServer) -> None:
    before = administered(server, "SHOW DATABASES"), administered(server, "SELECT user FROM mysql.user ORDER BY user")
    MariadbDatabase(server.server, TABLE, SECONDS).close()
    after = administered(server, "SHOW DATABASES"), administered(server, "SELECT user FROM mysql.user ORDER BY user")
    assert before == after


def test_names_of_tables_and_columns_are_kept(server: PrivateServer) -> None:
    """Two samples with a table of the same name, and names that a database could misread."""
    odd = Table("drop`; -- 'x", ("a`b", "select", "%s"), (("1", "%s", None),))
    with ExitStack() as stack:
        made = [stack.enter_context(closing(MariadbDatabase(server.server, odd, SECONDS))) for _ in range(2)]
        made[0].execute("DELETE FROM `drop``; -- 'x`")
        assert [database.execute("SELECT * FROM `drop``; -- 'x`") for database in made] == ["[]", "[('1', '%s', None)]"]
        assert made[0].execute("SELECT * FROM nothing") == f"1146 (42S02): Table '{odd.name}.nothing' doesn't exist"


def test_the_server_is_private(server: PrivateServer) -> None:
    process = psutil.Process(server._process.pid)  # type: ignore[union-attr]
    assert process.name() == "mariadbd"
    assert process.uids().effective != 0
    assert process.net_connections(kind="inet") == []
    assert stat.S_IMODE(server.folder.stat().st_mode) == 0o700


@pytest.mark.needs("mariadb")
@pytest.mark.parametrize("end", ["return", "kill"])
def test_the_server_ends_with_its_process(end: str) -> None:
    """However the process ends, no server keeps running and no folder remains."""
    program = (
        "import os, signal\nfrom cycleqd_merge.tasks.database import mariadb\n"
        "mariadb.mariadb_server(); print(mariadb._private.folder, mariadb._private._process.pid, flush=True)\n"
        + ("os.kill(os.getpid(), signal.SIGKILL)" if end == "kill" else "")
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == (-signal.SIGKILL if end == "kill" else 0)
    folder, process = done.stdout.split()
    limit = time.monotonic() + 60
    while time.monotonic() < limit and (Path(folder).exists() or psutil.pid_exists(int(process))):
        time.sleep(0.05)
    assert not Path(folder).exists()
    assert not psutil.pid_exists(int(process))


def test_an_existing_server_is_used(server: PrivateServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The address is parsed; the connection itself goes to the server of these tests."""
    monkeypatch.setenv(URL_VARIABLE, "mysql://me:p%40ss@db.example.org:3307")
    existing = mariadb.mariadb_server()
    assert dict(existing.connection) == {"host": "db.example.org", "port": 3307, "user": "me", "password": "p@ss"}
    assert existing.label == "db.example.org:3307"
    monkeypatch.setattr(mariadb, "_existing", lambda url: server.server)
    assert mariadb.require_server().startswith("10.") or "MariaDB" in mariadb.require_server()
    assert mariadb.mariadb_server() is server.server


@pytest.mark.parametrize("url", ["http://localhost", "mysql://", "localhost:3306", "mysql://localhost:no"])
def test_an_invalid_address_is_reported(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv(URL_VARIABLE, url)
    with pytest.raises(
        TaskError, match=f"{URL_VARIABLE}: not a server's address; write mysql://user:password@host:port"
    ):
        mariadb.require_server()


def test_root_requires_an_unprivileged_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(name: str) -> None:
        raise KeyError(name)

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr("pwd.getpwnam", nobody)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(TaskError, match="MariaDB cannot run as root; add a user named `mysql`"):
        PrivateServer()
    assert list(tmp_path.iterdir()) == []
