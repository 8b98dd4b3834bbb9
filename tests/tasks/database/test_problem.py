"""Rows of kind `dbbench`: which ones are refused when the task is opened, compared with what MariaDB itself says."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import pytest

from cycleqd_merge.errors import DataError, InfrastructureError
from cycleqd_merge.tasks.database.mariadb_database import MariadbDatabase
from cycleqd_merge.tasks.database.private_server import PrivateServer
from cycleqd_merge.tasks.database.problem import read_db_problem
from cycleqd_merge.tasks.database.table import Table
from tests.components import DATA, require
from tests.tasks.agentbench import CELLS, COLUMNS, NAME, UPDATE, digest, row


def stated(columns: Sequence[Any] = ("a",), rows: Any = (("1",),), name: Any = "T") -> dict[str, Any]:
    """A table as a row states it."""
    infos = [{"name": column, "type": "TEXT"} for column in columns]
    cells = [list(each) if isinstance(each, tuple) else each for each in rows] if isinstance(rows, tuple) else rows
    return {"table_name": name, "table_info": {"columns": infos, "rows": cells}}


@pytest.fixture(scope="module")
def server() -> Iterator[PrivateServer]:
    require("mariadb")
    private = PrivateServer()
    yield private
    private.stop()


def refused_by_mariadb(server: PrivateServer, table: Table) -> bool:
    try:
        MariadbDatabase(server.server, table, 5.0).close()
    except DataError:
        return True
    return False


def raw(columns: Sequence[str], rows: Sequence[Sequence[str]], name: str) -> Table:
    """A table that nothing has checked."""
    return Table(name, tuple(columns), tuple(tuple(each) for each in rows))


LIMITS: dict[str, tuple[Sequence[str], Sequence[Sequence[str]], str]] = {
    "name of 64": (("a",), (), "t" * 64),
    "name of 65": (("a",), (), "t" * 65),
    "64 accented letters": (("é" * 64,), (), "é" * 64),
    "64 Cyrillic letters": (("a",), (), "ж" * 64),
    "50 Chinese letters": (("a",), (), "日" * 50),
    "51 Chinese letters": (("a",), (), "日" * 51),
    "50 hyphens": (("a",), (), "-" * 50),
    "51 hyphens": (("a",), (), "-" * 51),
    "a column of 64 Chinese letters": (("日" * 64,), (), "t"),
    "a column of 65": (("c" * 65,), (), "t"),
    "emoji as a table": (("a",), (), "🎷"),
    "emoji as a column": (("🎷",), (), "t"),
    "NUL": (("a\0b",), (), "t"),
    "slashes, dots and line feeds": (("a/b.c", "a\nb", "a\tb", "\\"), (), "a/b.c"),
    "a private letter": (("\ue000",), (), "\uffff"),
    "accents": (("Año", "Ano"), (), "t"),
    "dotless i": (("ID", "\u0131d"), (), "t"),
    "sharp s": (("Strasse", "Straße"), (), "t"),
    "full width": (("\uff21", "A"), (), "t"),
    "383 columns": ([f"c{i}" for i in range(383)], (), "t"),
    "384 columns": ([f"c{i}" for i in range(384)], (), "t"),
    "207 cells of 38 bytes": ([f"c{i}" for i in range(207)], [["x" * 38] * 207], "t"),
    "208 cells of 38 bytes": ([f"c{i}" for i in range(208)], [["x" * 38] * 208], "t"),
    "366 long cells": ([f"c{i}" for i in range(366)], [["x" * 500] * 366], "t"),
    "367 long cells": ([f"c{i}" for i in range(367)], [["x" * 500] * 367], "t"),
}


@pytest.mark.needs("mariadb")
@pytest.mark.parametrize("case", LIMITS)
def test_a_table_is_refused_where_mariadb_refuses_it(server: PrivateServer, case: str) -> None:
    columns, rows, name = LIMITS[case]
    accepted = not refused_by_mariadb(server, raw(columns, rows, name))
    if accepted:
        assert Table.of(stated(columns, tuple(map(tuple, rows)), name)) == raw(columns, rows, name)
    else:
        with pytest.raises(DataError, match="MariaDB") as raised:
            Table.of(stated(columns, tuple(map(tuple, rows)), name))
        assert "\n" not in str(raised.value)


@pytest.mark.needs("mariadb")
@pytest.mark.parametrize(
    ("columns", "kept"),
    [
        (("a ", "a\t", "b\n", "\u00a0"), ("a", "a_2", "b", "\u00a0")),
        (("Score", "", "score", "SCORE"), ("Score", "column_2", "score_3", "SCORE_4")),
        (("a_3", "a", "a"), ("a_3", "a", "a_3_")),
        (("İ", "i", "I"), ("İ", "i_2", "I_3")),
        (("É", "é"), ("É", "é_2")),
        (("Σ", "\u03c3"), ("Σ", "\u03c3_2")),
    ],
)
def test_repaired_columns_are_accepted_by_mariadb(
    server: PrivateServer, columns: tuple[str, ...], kept: tuple[str, ...]
) -> None:
    assert refused_by_mariadb(server, raw(columns, (), "t"))
    table = Table.of(stated(columns, (tuple("1" for _ in columns),)))
    assert table.columns == kept
    with closing(MariadbDatabase(server.server, table, 5.0)) as database:
        assert database.execute("SELECT * FROM T") == f"[{tuple('1' for _ in columns)!r}]"


@pytest.mark.needs("mariadb")
def test_a_cell_holds_as_much_as_mariadb_stores(server: PrivateServer) -> None:
    """Without strict mode, MariaDB cuts a longer cell off silently."""
    with closing(MariadbDatabase(server.server, Table.of(stated(rows=(("é" * 32767,),))), 5.0)) as database:
        assert database.execute("SELECT LENGTH(a) FROM T") == "[(65534,)]"
    with pytest.raises(DataError, match="row 1 of the table: a cell of 65536 bytes"):
        Table.of(stated(rows=(("é" * 32768,),)))
    with closing(MariadbDatabase(server.server, raw(("a",), (("x" * 65536,),), "T"), 5.0)) as database:
        assert database.execute("SELECT LENGTH(a) FROM T") == "[(65535,)]"
    with pytest.raises(DataError, match=r"table: .* bytes; at most 8388608"):
        Table.of(stated(rows=tuple(("x" * 65000,) for _ in range(130))))


def test_cells_are_texts_as_agentbench_writes_them() -> None:
    table = Table.of(stated("abcde", ((1, 2.5, None, True, "x"), ("1",), ())))
    assert table.rows == (("1", "2.5", None, "1", "x"), ("1", None, None, None, None))


WRITE = row("UPDATE", [UPDATE], [("So What", "1", "Miles Davis"), *CELLS[1:]])
QUESTION = row("other", ["12"])


@pytest.mark.parametrize(
    ("base", "changes", "problem"),
    [
        (QUESTION, {"label": "12"}, "label: expected a list of texts, such as [\"12\"]; found '12'"),
        (QUESTION, {"label": 12}, 'label: expected a list of texts, such as ["12"]; found 12'),
        (QUESTION, {"label": [12]}, 'label: expected a list of texts, such as ["12"]; found [12]'),
        (QUESTION, {"label": ["a", None]}, "label: expected a list of texts"),
        (QUESTION, {"label": []}, "label: expected a list of texts"),
        (QUESTION, {"label": None}, "label: missing"),
        (QUESTION, {"label": {"a": 1}}, "label: expected a list of texts"),
        (QUESTION, {"type": None}, "type: missing"),
        (QUESTION, {"type": []}, "type: expected a list of one text"),
        (QUESTION, {"type": [3]}, "type: expected a list of one text"),
        (QUESTION, {"description": None}, "description: expected a text; found null"),
        (QUESTION, {"description": 7}, "description: expected a text; found 7"),
        (QUESTION, {"table": None}, "table: missing"),
        (QUESTION, {"table": "T"}, "table: expected an object with the key `table_name`; found 'T'"),
        (QUESTION, {"table": []}, "table: expected an object with the key `table_name`"),
        (QUESTION, {"table": {"table_name": "T"}}, "table: the key `table_info` is missing"),
        (QUESTION, {"table": stated(name=None)}, "table_name: expected a text; found null"),
        (QUESTION, {"table": stated(name=" ")}, "table: a name and at least one column are required"),
        (QUESTION, {"table": stated(columns=())}, "table: a name and at least one column are required"),
        (QUESTION, {"table": stated(columns=(None,))}, "column 1: name: expected a text; found null"),
        (QUESTION, {"table": stated(rows="ab")}, "rows: expected a list; found 'ab'"),
        (QUESTION, {"table": stated(rows=(("1",), "ab"))}, "row 2 of the table: expected a list; found 'ab'"),
        (QUESTION, {"table": stated(rows=((["1"],),))}, "row 1 of the table, cell 1: expected a text, number or null"),
        (QUESTION, {"table": stated(rows=((float("nan"),),))}, "row 1 of the table, cell 1: expected a text, number"),
        (QUESTION, {"table": stated(rows=(("\ud800",),))}, "lone surrogate"),
        (QUESTION, {"table": stated(name="\ud800")}, "MariaDB's names cannot contain U+D800"),
        (
            QUESTION,
            {"answer_md5": WRITE["answer_md5"]},
            "type: a row with `answer_md5` has the type INSERT, UPDATE, DEL",
        ),
        (WRITE, {"answer_md5": None}, "answer_md5: expected AgentBench's digest of the changed table"),
        (WRITE, {"answer_md5": "0123456789abcdef0123456789abcdef"}, "answer_md5: expected AgentBench's digest"),
        (WRITE, {"type": ["UPDATES"]}, "type: a row with `answer_md5` has the type"),
    ],
)
def test_rows_of_another_form_are_refused(base: dict[str, Any], changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(DataError) as raised:
        read_db_problem({**base, **changes})
    assert problem in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["UPDATE", "update", ["update"], ["UPDATE", "other"]])
def test_a_type_may_be_a_text_or_in_lower_case(kind: Any) -> None:
    problem = read_db_problem({**WRITE, "type": kind})
    assert problem.is_write
    assert problem.digest == digest([("So What", "1", "Miles Davis"), *CELLS[1:]])
    assert problem.table == Table(NAME, COLUMNS, CELLS)


@pytest.mark.needs("published data")
def test_the_published_rows_are_all_accepted() -> None:
    lines = (DATA / "data_dbbench_standard_dev.jsonl").read_text().splitlines()
    assert sum(read_db_problem(json.loads(line)).is_write for line in lines) == 240


@pytest.mark.needs("mariadb")
def test_a_table_that_only_the_server_refuses_is_an_error_of_the_data(server: PrivateServer) -> None:
    with server.server.administer() as cursor:
        cursor.execute("SELECT COUNT(*) FROM mysql.user")
        before = cursor.fetchall()
    with pytest.raises(DataError, match=r"table '#mysql50#a': the database cannot store it: Incorrect table name"):
        MariadbDatabase(server.server, raw(("a",), (), "#mysql50#a"), 5.0)
    with server.server.administer() as cursor:
        cursor.execute("SELECT COUNT(*) FROM mysql.user")
        assert cursor.fetchall() == before
    gone = MariadbDatabase(server.server, raw(("a",), (), "t"), 5.0)
    gone.close()
    with pytest.raises(InfrastructureError):
        gone.close()
