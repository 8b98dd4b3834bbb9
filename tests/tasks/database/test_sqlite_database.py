"""The approximation of MariaDB: what it translates, and that it is isolated."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from cycleqd_merge.errors import TaskError
from cycleqd_merge.tasks.database.sqlite_database import SqliteDatabase
from cycleqd_merge.tasks.database.table import Table
from tests.tasks.agentbench import CELLS, COLUMNS, INSERT, NAME, ROWS, UPDATE, digest, open_dbbench
from tests.tasks.database.test_dbbench import ANSWER, operation, scores

SECONDS = 1.0


@pytest.fixture
def database() -> Iterator[SqliteDatabase]:
    with closing(SqliteDatabase(Table(NAME, COLUMNS, CELLS), SECONDS)) as made:
        yield made


@pytest.mark.parametrize(
    ("sql", "result"),
    [
        ("SELECT `Title`, COUNT(*) FROM `Jazz Albums` WHERE Title = 'giant STEPS' GROUP BY 1", "[('Giant Steps', 1)]"),
        ("SELECT CONCAT(`No.`, '-', IF(1, 'a', 'b')) FROM `Jazz Albums` LIMIT 1", "[('1-a',)]"),
        ("DELETE FROM `Jazz Albums` WHERE `No.` = '2'", "[]"),
        ("SELECT missing", "1064 (42000): no such column: missing"),
        ("SELECT 1; SELECT 2", "1064 (42000): expected one statement; found 2"),
        ("SELECT REPEAT('x', 900)", "1064 (42000): no such function: REPEAT"),
    ],
)
def test_mysqls_dialect_is_translated(database: SqliteDatabase, sql: str, result: str) -> None:
    assert database.execute(sql) == result


def test_writes_are_graded_as_on_mariadb(tmp_path: Path) -> None:
    task = open_dbbench(tmp_path, *ROWS, database="sqlite")
    assert "approximation of MariaDB" in task.environment()
    assert scores(task, operation(INSERT), ANSWER) == [1.0, 0.0, 1.0, 0.0]
    assert scores(task, operation(UPDATE), ANSWER) == [1.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    "sql",
    [
        "ATTACH DATABASE '{folder}/stolen' AS s",
        "VACUUM INTO '{folder}/stolen'",
        "VACUUM",
        "PRAGMA max_page_count = 1000000000",
        "PRAGMA temp_store_directory = '{folder}'",
        "SELECT load_extension('{folder}/x.so')",
        "CREATE VIRTUAL TABLE t USING fts5(a)",
        "SELECT randomblob(1000000000)",
        "SELECT readfile('/etc/passwd')",
    ],
)
def test_statements_cannot_leave_the_database(database: SqliteDatabase, tmp_path: Path, sql: str) -> None:
    assert database.execute(sql.format(folder=tmp_path)).startswith("1064 (42000): ")
    assert list(tmp_path.iterdir()) == []
    assert database.digest() == digest(CELLS)


@pytest.mark.parametrize(
    "sql",
    [
        "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) FROM n",
        "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i FROM n) INSERT INTO `Jazz Albums` SELECT i, i, i FROM n",
    ],
)
def test_statements_are_limited_in_time_and_space(database: SqliteDatabase, sql: str) -> None:
    start, before = time.monotonic(), psutil.Process().memory_info().rss
    assert database.execute(sql).startswith("1064 (42000): ")
    assert time.monotonic() - start < SECONDS + 20
    assert psutil.Process().memory_info().rss - before < 500 << 20
    assert database.digest() == digest(CELLS)


def test_a_dropped_table_has_no_digest(database: SqliteDatabase) -> None:
    assert database.execute("DROP TABLE `Jazz Albums`") == "[]"
    assert database.digest() is None


def test_a_missing_client_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for database, client in (("sqlite", "sqlglot"), ("mariadb", "pymysql")):
        task = open_dbbench(tmp_path, ROWS[0], database=database)
        monkeypatch.setitem(sys.modules, client, None)
        extra = rf"^database: {database} requires \w+: `pip install 'cycleqd-merge\[{database}\]'`"
        with pytest.raises(TaskError, match=extra):
            task.environment()
