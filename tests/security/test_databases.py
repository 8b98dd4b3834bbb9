"""Databases end: a model's SQL costs its own statement, never the run, another sample or the machine."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from cycleqd_merge.tasks import limits
from cycleqd_merge.tasks.database import mariadb, private_server
from cycleqd_merge.tasks.database import server as server_module
from cycleqd_merge.tasks.database.mariadb_database import MariadbDatabase
from cycleqd_merge.tasks.database.private_server import PrivateServer
from cycleqd_merge.tasks.database.sqlite_database import SqliteDatabase
from cycleqd_merge.tasks.database.table import Table
from cycleqd_merge.tasks.protocol import Outcome
from tests.components import require
from tests.security.attacks import Attack, cases
from tests.tasks.agentbench import CELLS, COLUMNS, NAME, ROWS, digest, open_dbbench
from tests.tasks.database.test_dbbench import ANSWER, operation, turns
from tests.tasks.scripted import Scripted

TABLE = Table(NAME, COLUMNS, CELLS)
PATIENCE = 90.0  # seconds: everything here ends in a few, on an idle machine
NUMBERS = "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n)"
HUGE = "printf('%.*c', 2000000000, 'x')"

_ENDS = "it ends at its limit, and the database stays as it was"
_DENIED = "it is denied, and the database stays as it was"
SQLITE = [
    Attack("SQLite", "one step that takes a minute", _ENDS, (f"SELECT {HUGE}", "interrupted")),
    Attack("SQLite", "a step that takes a minute in an index", _ENDS, (f"CREATE INDEX i ON `{NAME}` ({HUGE})", ".")),
    Attack("SQLite", "a step that takes a minute in a change", _ENDS, (f"UPDATE `{NAME}` SET Title = {HUGE}", "inter")),
    Attack("SQLite", "endless recursion", _ENDS, (f"{NUMBERS} SELECT COUNT(*) FROM n", "interrupted")),
    Attack(
        "SQLite", "a join of all with all", _ENDS, ("SELECT COUNT(*) FROM " + f"`{NAME}`," * 19 + f"`{NAME}`", "inter")
    ),
    Attack(
        "SQLite", "a statement that takes minutes to parse", _ENDS, ("SELECT " + "1+" * 200_000 + "1", "interrupted")
    ),
    Attack(
        "SQLite",
        "sorting more than fits in memory",
        _ENDS,
        (f"{NUMBERS} SELECT i, hex(zeroblob(500000)) || i FROM n ORDER BY 2", "out of memory|interrupted"),
    ),
    Attack(
        "SQLite",
        "a temporary table that fills the disk",
        _ENDS,
        (f"CREATE TEMPORARY TABLE t AS {NUMBERS} SELECT hex(zeroblob(500000)) || i FROM n", "full|memory|interrupted"),
    ),
    Attack(
        "SQLite", "a row of gigabytes", _ENDS, ("SELECT " + ",".join(["hex(zeroblob(500000))"] * 1900), "memory|inter")
    ),
    Attack("SQLite", "a value of a gigabyte", _DENIED, ("SELECT zeroblob(1000000000)", "too big")),
    Attack("SQLite", "a long pattern", _DENIED, (f"SELECT 'a' LIKE '{'%a' * 600}'", "too complex")),
    Attack("SQLite", "nested brackets", _DENIED, ("SELECT " + "(" * 900 + "1" + ")" * 900, "recursion|depth")),
    Attack("SQLite", "another file", _DENIED, ("ATTACH DATABASE '/tmp/x' AS y", "1064")),
    Attack("SQLite", "an extension", _DENIED, ("SELECT load_extension('x')", "1064")),
    Attack("SQLite", "more memory by a setting", _DENIED, ("PRAGMA max_page_count = 1000000000", "1064")),
    Attack("SQLite", "a full-text index", _DENIED, ("CREATE VIRTUAL TABLE t USING fts5(a)", "1064")),
    Attack("SQLite", "an index of places", _DENIED, ("CREATE VIRTUAL TABLE t USING rtree(a, b, c)", "1064")),
]
SQLITE_STATE = [
    Attack("SQLite", "a killed statement within a transaction", "transaction and temporary tables are as before it"),
    Attack("SQLite", "a killed statement of another sample", "transaction and temporary tables are as before it"),
    Attack("SQLite", "the process of the databases is killed", "transaction and temporary tables are as before it"),
]

_OTHERS = "the database is removed, and the next sample finds nothing of it"
XA = ["XA START {xid}", f"INSERT INTO `{NAME}` VALUES ('x', 'y', 'z')", "XA END {xid}", "XA PREPARE {xid}"]
MARIADB = [
    Attack("MariaDB", "XA PREPARE", _OTHERS, [sql.format(xid="'a'") for sql in XA]),
    Attack("MariaDB", "XA PREPARE with a name in two parts", _OTHERS, [sql.format(xid="'a', 'b', 7") for sql in XA]),
    Attack("MariaDB", "XA PREPARE with binary names", _OTHERS, [sql.format(xid="x'00ff27', x'5c', 9") for sql in XA]),
    Attack(
        "MariaDB",
        "XA PREPARE in a session that is lost before the end",
        _OTHERS,
        [*(sql.format(xid="'lost'") for sql in XA), "SET STATEMENT max_statement_time = 0 FOR SELECT SLEEP(60)"],
    ),
    Attack("MariaDB", "XA without PREPARE", _OTHERS, [sql.format(xid="'b'") for sql in XA[:3]]),
    Attack("MariaDB", "locked tables", _OTHERS, [f"LOCK TABLES `{NAME}` WRITE"]),
    Attack("MariaDB", "an open handler", _OTHERS, [f"HANDLER `{NAME}` OPEN", f"HANDLER `{NAME}` READ FIRST"]),
    Attack("MariaDB", "an open transaction", _OTHERS, ["BEGIN", f"DELETE FROM `{NAME}`", "SAVEPOINT s"]),
    Attack("MariaDB", "a user lock", _OTHERS, ["SELECT GET_LOCK('shared', 0)"]),
    Attack("MariaDB", "variables and prepared statements", _OTHERS, ["SET @secret = 1", "PREPARE p FROM 'SELECT 1'"]),
    Attack("MariaDB", "a lock wait of a year", _OTHERS, ["SET SESSION lock_wait_timeout = 31536000", "SELECT 1"]),
]
REFUSED = [
    Attack("MariaDB", "kill another sample's session", _DENIED, "KILL {session}"),
    Attack("MariaDB", "kill another sample's statements", _DENIED, "KILL QUERY {session}"),
    Attack("MariaDB", "events", _DENIED, "CREATE EVENT e ON SCHEDULE EVERY 1 SECOND DO SELECT 1"),
    Attack("MariaDB", "switch events on", _DENIED, "SET GLOBAL event_scheduler = ON"),
    Attack("MariaDB", "longer limits for everybody", _DENIED, "SET GLOBAL max_statement_time = 0"),
    Attack("MariaDB", "flush", _DENIED, "FLUSH TABLES"),
    Attack(
        "MariaDB",
        "a function of another user",
        _DENIED,
        "CREATE DEFINER=root@localhost FUNCTION f() RETURNS INT RETURN 1",
    ),
    Attack("MariaDB", "a view of another user", _DENIED, "CREATE DEFINER=root@localhost VIEW v AS SELECT 1"),
]
MARIADB_LIMITS = [
    Attack("MariaDB", "another sample's prepared transaction", "it survives the end of a sample, and can be committed"),
    Attack("MariaDB", "a statement that KILL does not end", "its server is replaced; other samples work on"),
    Attack("MariaDB", "temporary tables that fill the disk", "their session is closed"),
    Attack("MariaDB", "buffers of a terabyte", "sessions cannot raise their limits"),
    Attack("MariaDB", "a lock that the administrator waits for", "the wait ends, and is reported"),
    Attack("MariaDB", "a hundred tables in memory", "refused: nothing would limit them"),
    Attack(
        "MariaDB", "a transaction that fills the undo log", "its session is closed, and new samples get a new server"
    ),
    Attack("MariaDB", "a statement that crashes the server", "its sample scores 0; others are scored as usual"),
]
ATTACKS = [*SQLITE, *SQLITE_STATE, *MARIADB, *REFUSED, *MARIADB_LIMITS]


def within(function: Callable[[], Any]) -> Any:
    """The result of a function that must end; it is left behind if it does not."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(function())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive(), f"still running after {PATIENCE} seconds"
    if isinstance(results[0], Exception):
        raise results[0]
    return results[0]


@pytest.mark.parametrize("attack", cases(SQLITE))
def test_a_statement_of_sqlite_ends(attack: Attack) -> None:
    sql, result = attack.given
    with closing(SqliteDatabase(TABLE, 0.3)) as database, closing(SqliteDatabase(TABLE, 0.3)) as other:
        before = time.process_time(), psutil.Process().memory_info().rss
        answer = within(lambda: database.execute(sql))
        assert re.search(result, answer), answer[:200]
        assert time.process_time() - before[0] < 2
        assert psutil.Process().memory_info().rss - before[1] < 300 << 20
        assert database.digest() == other.digest() == digest(CELLS)


@pytest.mark.parametrize("attack", cases(SQLITE_STATE))
def test_a_conversation_outlives_the_process_of_its_database(attack: Attack) -> None:
    made = [SqliteDatabase(TABLE, 0.3) for _ in range(8)]  # more than there are processes
    try:
        for database in made:
            assert database.execute("CREATE TEMPORARY TABLE kept AS SELECT 1 AS x") == "[]"
            assert database.execute("BEGIN") == "[]"
            assert database.execute(f"DELETE FROM `{NAME}` WHERE Title = 'Giant Steps'") == "[]"
        own = "within a transaction" in attack.attack
        if "killed statement" in attack.attack:
            assert "interrupted" in within(lambda: made[0].execute(f"SELECT {HUGE}"))
        else:
            children = [child for child in psutil.Process().children() if "bounded_child.py" in str(child.cmdline())]
            assert children
            for child in children:
                child.kill()
                child.wait()
        for database in made[: 1 if own else None]:
            assert database.execute("SELECT x FROM kept") == "[(1,)]"
            assert database.execute(f"SELECT COUNT(*) FROM `{NAME}`") == "[(2,)]"
            assert database.execute("ROLLBACK") == "[]"
            assert database.digest() == digest(CELLS)
    finally:
        for database in made:
            database.close()


@pytest.fixture(scope="module")
def server() -> Iterator[PrivateServer]:
    require("mariadb")
    private = PrivateServer()
    yield private
    private.stop()


def administered(server: PrivateServer, sql: str) -> tuple[tuple[Any, ...], ...]:
    with server.server.administer() as cursor:
        cursor.execute(sql)
        return cursor.fetchall()


def left(server: PrivateServer) -> list[tuple[tuple[Any, ...], ...]]:
    """What samples leave on a server, if anything."""
    return [
        administered(server, "XA RECOVER"),
        administered(server, "SELECT user FROM mysql.user WHERE user LIKE 'cycleqd%'"),
        administered(server, "SHOW DATABASES LIKE 'cycleqd%'"),
        administered(server, "SELECT id FROM information_schema.processlist WHERE user LIKE 'cycleqd%'"),
    ]


@pytest.mark.needs("mariadb")
@pytest.mark.parametrize("attack", cases(MARIADB))
def test_nothing_of_a_sample_is_left_on_the_server(server: PrivateServer, attack: Attack) -> None:
    database = MariadbDatabase(server.server, TABLE, 1.0)
    for sql in attack.given:
        assert not re.match(r"\d{4} \((?!70100)", result := database.execute(sql)), result
    database.digest()
    within(database.close)
    assert left(server) == [(), (), (), ()]
    with closing(MariadbDatabase(server.server, TABLE, 1.0)) as following:
        assert following.execute("SELECT GET_LOCK('shared', 0), @secret") == "[(1, None)]"
        assert following.digest() == digest(CELLS)


@pytest.mark.needs("mariadb")
@pytest.mark.parametrize("attack", cases(REFUSED))
def test_a_statement_reaches_nothing_of_others(server: PrivateServer, attack: Attack) -> None:
    database, other = (MariadbDatabase(server.server, TABLE, 1.0) for _ in range(2))
    with closing(database), closing(other):
        session = re.sub(r"\D", "", other.execute("SELECT CONNECTION_ID()"))
        answer = database.execute(attack.given.format(session=session))
        assert re.match(r"\d{4} \(.{5}\): .*(denied|not owner|need|can't|disabled)", answer, re.IGNORECASE), answer
        assert other.execute("SELECT CONNECTION_ID()") == f"[({session},)]"
        assert database.digest() == other.digest() == digest(CELLS)


@pytest.mark.needs("mariadb")
def test_another_samples_prepared_transaction_survives(server: PrivateServer) -> None:
    first, second = (MariadbDatabase(server.server, TABLE, 1.0) for _ in range(2))
    for database, xid in ((first, "'one'"), (second, "'two'")):
        assert [database.execute(sql.format(xid=xid)) for sql in XA] == ["[]"] * 4
    within(first.close)
    assert [row[3] for row in administered(server, "XA RECOVER")] == [b"two"]
    assert second.execute("XA COMMIT 'two'") == "[]"
    assert second.digest() == digest([*CELLS, ("x", "y", "z")])
    within(second.close)
    assert left(server) == [(), (), (), ()]


@pytest.mark.needs("mariadb")
def test_a_statement_that_cannot_be_killed_costs_its_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_LIMITS", "SET SESSION lock_wait_timeout = 1", raising=False)
    private = PrivateServer()
    monkeypatch.setattr(mariadb, "_private", private)
    try:
        hostile, other = (MariadbDatabase(private.server, TABLE, 1.0) for _ in range(2))
        with closing(private.server.connect()) as holding, holding.cursor() as cursor:  # as a statement that hangs
            cursor.execute(f"LOCK TABLES {hostile._name}.`{NAME}` WRITE")
            within(hostile.close)
        following = mariadb.mariadb_server()
        assert following is not private.server
        with closing(MariadbDatabase(following, TABLE, 1.0)) as database:
            assert database.digest() == digest(CELLS)
        assert other.digest() == digest(CELLS)
        assert not private.ended
        other.close()
        deadline = time.monotonic() + PATIENCE
        while not private.ended:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        private.stop()
        if mariadb._private is not None:
            mariadb._private.stop()


@pytest.mark.needs("mariadb")
@pytest.mark.parametrize("engine", ["Aria", "MyISAM"])
def test_temporary_tables_are_limited(server: PrivateServer, monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    monkeypatch.setattr(private_server, "LARGEST", 16 << 20)
    with closing(MariadbDatabase(server.server, TABLE, 60.0)) as database:
        fill = "SELECT REPEAT('x', 60000) AS x FROM seq_1_to_1000000"
        answer = within(lambda: database.execute(f"CREATE TEMPORARY TABLE t ENGINE={engine} {fill}"))
        assert re.search("killed|interrupted|NO_ENGINE_SUBSTITUTION", answer), answer  # all tables are InnoDB's
        assert database.digest() == digest(CELLS)


@pytest.mark.needs("mariadb")
def test_sessions_cannot_raise_their_limits(server: PrivateServer) -> None:
    names = ["sort_buffer_size", "join_buffer_size", "max_session_mem_used", "tmp_disk_table_size"]
    with closing(MariadbDatabase(server.server, TABLE, 1.0)) as database:
        assert database.execute(f"SET SESSION {', '.join(f'{name} = 1000000000000' for name in names)}") == "[]"
        answer = database.execute(f"SELECT {', '.join(f'@@{name} <= 536870912' for name in names)}")
        assert answer == "[(1, 1, 1, 1)]"


@pytest.mark.needs("mariadb")
def test_the_administrator_waits_for_no_lock(server: PrivateServer) -> None:
    names = "@@lock_wait_timeout, @@innodb_lock_wait_timeout, @@max_statement_time"
    assert all(0 < value <= 60 for value in administered(server, f"SELECT {names}")[0])


@pytest.mark.needs("mariadb")
def test_no_table_is_made_in_memory(server: PrivateServer) -> None:
    with closing(MariadbDatabase(server.server, TABLE, 1.0)) as database:
        for kind in ("TABLE", "TEMPORARY TABLE"):
            assert "NO_ENGINE_SUBSTITUTION" in database.execute(f"CREATE {kind} m (a INT) ENGINE=MEMORY")
        assert "denied" in database.execute("SET enforce_storage_engine = MEMORY")
        assert database.execute("CREATE TABLE i (a INT)") == "[]"


@pytest.mark.needs("mariadb")
def test_the_undo_log_is_limited(server: PrivateServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_largest_undo_log", 24 << 20)
    update = "UPDATE big SET x = REPEAT(CHAR(97 + i MOD 20), 3000)"
    with closing(MariadbDatabase(server.server, TABLE, 60.0)) as database:
        assert database.execute("CREATE TABLE big AS SELECT REPEAT('x', 3000) AS x FROM seq_1_to_400") == "[]"
        filling = f"BEGIN NOT ATOMIC START TRANSACTION; FOR i IN 1..1000000 DO {update}; END FOR; END"
        answer = within(lambda: database.execute(filling))
        assert "killed" in answer or "interrupted" in answer
        assert database.digest() == digest(CELLS)
    assert server.server.abandoned  # new samples get a new server
    server.server.abandoned.clear()


@pytest.mark.needs("mariadb")
def test_a_statement_that_crashes_the_server_costs_its_sample(tmp_path: Path) -> None:
    count = len(mariadb_servers())
    task = open_dbbench(tmp_path, *ROWS[:1] * 2)
    crash = "SELECT ST_BUFFER(ST_GeomFromText('LINESTRING(0 0, 1 1)'), 1e300)"  # of MariaDB 10.11
    slow = [operation("SELECT SLEEP(1)")] * 3
    models = [Scripted(turns(operation(crash), ANSWER)), Scripted(turns(*slow, ANSWER))]

    async def play() -> list[Outcome]:
        pairs = zip(task.samples("search"), models, strict=True)
        return list(await asyncio.gather(*(limits.score_within_limits(task, *pair) for pair in pairs)))

    hostile, other = asyncio.run(play())
    if len(models[0].requests) > 2 or not hostile.limits:
        pytest.skip("this version of MariaDB survives the statement")
    assert (hostile.score, hostile.limits) == (0.0, ("the database server crashed",))
    assert (other.score, other.limits) == (1.0, ())
    assert len(mariadb_servers()) <= count + 1


def mariadb_servers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "mariadbd" in child.name()]
