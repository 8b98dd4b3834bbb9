"""Rows from files: every format gives the values as written, and errors name the file and place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from cycleqd_merge.config.rows import RowsConfig
from cycleqd_merge.errors import DataError
from cycleqd_merge.tasks.rows import Row, read_rows

ROWS: list[dict[str, Any]] = [
    {"question": "what?", "answer": "007"},
    {"question": "when,\nexactly?", "answer": "2024-01-01"},
    {"question": 'a "quoted" \u2028 word', "answer": "NA"},
    {"question": "  é  ", "answer": "1.50"},
    {"question": "two\r\nlines", "answer": ""},
]


def read(path: Path) -> list[Row]:
    return read_rows(RowsConfig(path=str(path)))


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def jsonl(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def csv_text(rows: list[dict[str, Any]]) -> str:
    quoted = [['"' + str(value).replace('"', '""') + '"' for value in row.values()] for row in rows]
    return "\r\n".join([",".join(rows[0]), *(",".join(cells) for cells in quoted)]) + "\r\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize(
    ("ending", "text"),
    [
        ("jsonl", jsonl(ROWS)),
        ("jsonl", "\n" + jsonl(ROWS).replace("\n", "\r\n") + "  \n"),
        ("jsonl", jsonl(ROWS).rstrip("\n")),
        ("json", json.dumps(ROWS, indent=1)),
        ("csv", csv_text(ROWS)),
        ("csv", csv_text(ROWS) + "\r\n"),
    ],
)
def test_text_files_give_their_values_as_written(tmp_path: Path, ending: str, text: str, encoding: str) -> None:
    assert read(write(tmp_path / f"rows.{ending}", text, encoding)) == ROWS


def test_parquet_gives_its_values(tmp_path: Path) -> None:
    rows = [{"question": "a", "answer": "007", "options": ["x", "y"]}, {"question": "b", "answer": "NA", "options": []}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert read(tmp_path / "rows.parquet") == rows


def test_json_values_keep_their_types_and_rows_their_own_columns(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"a": 1, "b": {"x": [1, "2", None]}, "c": True},
        {"a": "2024-01-01T00:00:00", "b": {"y": 1.5}},
    ]
    assert read(write(tmp_path / "rows.jsonl", jsonl(rows))) == rows


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("rows.jsonl", b"", ": no rows"),
        ("rows.jsonl", b"\n \n", ": no rows"),
        ("rows.json", b"[]", ": no rows"),
        ("rows.csv", b"", ": no rows"),
        ("rows.csv", b"question,answer\n", ": no rows"),
        ("rows.txt", b"a\n", ": unknown format; rows are read from .jsonl, .json, .csv, .parquet"),
        ("rows", b"a\n", ": unknown format; rows are read from .jsonl, .json, .csv, .parquet"),
        ("rows.jsonl", b'{"a": 1}\n\n{"a": \n', ":3: not JSON: Expecting value"),
        ("rows.jsonl", b'{"a": 1}\n"text"\n', ":2: expected an object of columns and values; found str"),
        ("rows.json", b'[{"a": 1},\n {"a" 2}]', ":2: not JSON: Expecting ':' delimiter"),
        (
            "rows.json",
            b'{"a": 1}',
            ": expected a list of rows; found an object with the keys a; write a list of objects with a key per column "
            '(pandas: `to_json(..., orient="records")`)',
        ),
        ("rows.json", b'[{"a": 1}, 2]', ": row 2: expected an object of columns and values; found int"),
        ("rows.csv", b"a,b\n1,2\n1,2,3\n", ":3: expected 2 cells; found 3; put cells with commas in quotes"),
        ("rows.csv", b"a,b\n1,2\n1\n", ":3: expected 2 cells; found 1"),
        ("rows.csv", b'a,b\n"1,2\n', ":2: unexpected end of data; is a quote missing or not doubled?"),
        ("rows.jsonl", b"\xff\xfe", ": UTF-16 text; save it as UTF-8"),
        ("rows.csv", b"a\n\xe9\n", ":2: not UTF-8 text (byte 0xe9); save the file as UTF-8"),
    ],
)
def test_an_error_names_its_place(tmp_path: Path, name: str, content: bytes, problem: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as raised:
        read(path)
    assert str(raised.value) == f"{path}{problem}"


@pytest.mark.parametrize("content", [b"", b"PAR1 but not really PAR1"])
def test_a_damaged_parquet_file_is_reported(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read as rows") as raised:
        read(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)


def test_a_missing_file_and_a_directory_are_reported(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    for name in ("none.csv", "folder.csv"):
        with pytest.raises(DataError) as raised:
            read(tmp_path / name)
        assert str(raised.value) == f"{tmp_path / name}: no such file"


def test_a_dataset_that_cannot_be_reached_is_reported_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^dataset nobody/nothing: cannot be read: [^\n]+$"):
        read_rows(RowsConfig(dataset="nobody/nothing"))
