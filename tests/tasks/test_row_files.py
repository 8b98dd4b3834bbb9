"""Rows as real files have them: read as json, csv and pyarrow read them, or one line that says where and what to do."""

from __future__ import annotations

import csv
import datetime
import decimal
import functools
import hashlib
import http.server
import io
import json
import math
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from cycleqd_merge.config.rows import RowsConfig
from cycleqd_merge.errors import DataError
from cycleqd_merge.tasks.row_files import Row
from cycleqd_merge.tasks.rows import read_rows

PAIR: list[dict[str, Any]] = [{"q": "a", "answer": "1"}, {"q": "b", "answer": "2"}]
LINES = "".join(json.dumps(row) + "\n" for row in PAIR)


def read(path: Path) -> list[Row]:
    return read_rows(RowsConfig(path=str(path)))


def refusal(path: Path) -> str:
    """The error, without the path at its start."""
    with pytest.raises(DataError) as raised:
        read(path)
    message = str(raised.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message.removeprefix(str(path))


@pytest.mark.parametrize(
    ("name", "text", "places"),
    [
        ("lines.jsonl", LINES, [":1", ":2"]),
        ("LINES.JSONL", LINES, [":1", ":2"]),
        ("blank.jsonl", "\n" + LINES.replace("\n", "\n\n"), [":2", ":4"]),
        ("lines.json", LINES, [":1", ":2"]),  # as many datasets on the Hub
        ("list.json", json.dumps(PAIR, indent=2), [": row 1", ": row 2"]),
        ("list.jsonl", json.dumps(PAIR), [": row 1", ": row 2"]),
        ("pretty-list.jsonl", json.dumps(PAIR, indent=2), [": row 1", ": row 2"]),
        ("pretty.jsonl", "\n".join(json.dumps(row, indent=2) for row in PAIR), [":1", ":5"]),
        ("pretty.json", "\n".join(json.dumps(row, indent=2) for row in PAIR), [":1", ":5"]),
        ("rows.csv", "q,answer\na,1\nb,2\n", [":2", ":3"]),
        ("spreadsheet.csv", "q,answer\r\na,1\r\nb,2\r\n,\r\n,\r\n", [":2", ":3"]),
        ("late-header.csv", "\r\n,\r\nq,answer\r\na,1\r\nb,2\r\n", [":4", ":5"]),
        ("return.csv", "q,answer\ra,1\rb,2\r", [":2", ":3"]),
        ("quoted.csv", '"q","answer"\r\n"a",1\r\n"b","2"', [":2", ":3"]),
    ],
)
def test_every_form_of_the_same_rows_is_read(tmp_path: Path, name: str, text: str, places: list[str]) -> None:
    path = tmp_path / name
    path.write_text(text, newline="")
    rows = read(path)
    assert rows == PAIR
    assert [row.place for row in rows] == [f"{path}{place}" for place in places]


def test_a_csv_row_with_line_breaks_is_at_its_first_line(tmp_path: Path) -> None:
    text = 'q,answer\n"two\nlines",1\n\n"\u2028 is no line break, nor is \x0b",2\n'
    (tmp_path / "rows.csv").write_text(text)
    rows = read(tmp_path / "rows.csv")
    assert rows == list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row.place.rpartition(":")[2] for row in rows] == ["2", "5"]


def test_a_cell_may_be_longer_than_the_csv_modules_limit(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    (tmp_path / "rows.csv").write_text(f"q,answer\n{'x ' * limit},1\n")
    assert read(tmp_path / "rows.csv")[0]["q"] == "x " * limit
    assert csv.field_size_limit() == limit


def test_the_unnamed_index_column_of_pandas_is_a_column(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(",q,answer\n0,a,1\n")
    assert read(tmp_path / "rows.csv") == [{"": "0", "q": "a", "answer": "1"}]


def test_numbers_and_constants_are_as_json_reads_them(tmp_path: Path) -> None:
    text = '{"a": NaN, "b": 1e999, "c": 1.0, "d": true, "e": null, "f": 12345678901234567890, "g": "\\ud83d\\ude00"}'
    (tmp_path / "rows.jsonl").write_text(text)
    (row,) = read(tmp_path / "rows.jsonl")
    assert math.isnan(row.pop("a"))
    assert row == {key: value for key, value in json.loads(text).items() if key != "a"}


def test_parquet_values_are_as_pyarrow_reads_them(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {
            "nested": {"x": [1, 2]},
            "time": datetime.datetime(2020, 1, 1),
            "decimal": decimal.Decimal("1.50"),
            "bytes": b"x",
            "null": None,
        },
        {"nested": None, "time": None, "decimal": None, "bytes": None, "null": None},
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    found = read(tmp_path / "rows.parquet")
    assert found == rows
    assert [row.place.rpartition(": ")[2] for row in found] == ["row 1", "row 2"]


def parquet(*columns: tuple[str, Any]) -> bytes:
    sink = pyarrow.BufferOutputStream()
    names, arrays = zip(*columns, strict=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays(list(map(pyarrow.array, arrays)), list(names)), sink)
    return bytes(sink.getvalue())


SMALL = parquet(("q", ["a", "b"]))
DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.jsonl", LINES.encode() + b'{"q": "\\ud83d"}', ":3: column 'q': '\\ud83d' is half of a character"),
        ("a.json", b'[{"q": [{"\\udc00": 1}]}]', ": row 1: column 'q': '\\udc00' is half of a character"),
        ("a.jsonl", f'{{"q": "a"}}\n{{"q": {DEEP}}}'.encode(), ":2: nested too deeply"),
        ("a.json", f'[{{"q": {DEEP}}}]'.encode(), ": nested too deeply"),
        ("a.jsonl", b'{"q": 1}\n{"q": 1, "q": 2}', ":2: the key 'q' occurs twice in {'q': 2}; rename one of them"),
        ("a.jsonl", b'{"q": {"x": 1, "x": 2}}', ":1: the key 'x' occurs twice in {'x': 2}"),
        ("a.jsonl", b'{"q": ' + b"9" * 5000 + b"}", ":1: Exceeds the limit (4300 digits)"),
        ("a.jsonl", b'{"q": 1}\nnull\n', ":2: expected an object of columns and values; found null"),
        ("a.jsonl", b"[1, 2]\n", ":1: expected an object of columns and values; found a list"),
        ("a.jsonl", b"{'q': 1}\n", ":1: not JSON: "),
        ("a.jsonl", b'{"q": "a\0b"}', ":1: a NUL byte: a damaged file, or UTF-16 text; save it as UTF-8"),
        ("a.csv", b"q,answer\na,1\nb\0,2\n", ":3: a NUL byte"),
        ("a.csv", "q,answer\n".encode("utf-16"), ": UTF-16 text; save it as UTF-8"),
        ("a.csv", "q,answer\n".encode("utf-16-be"), ":1: a NUL byte"),
        ("a.csv", "q\nau\nlait\ncafé\n".encode("latin-1"), ":4: not UTF-8 text (byte 0xe9); save the file as UTF-8"),
        ("a.jsonl", b'\xef\xbb\xbf{"q": 1}\n{"q": "\xff"}', ":2: not UTF-8 text (byte 0xff)"),
        (
            "a.json",
            b'{"data": [{"q": 1}]}',
            ": expected a list of rows; found an object with the keys data; write a list",
        ),
        (  # pandas' `to_json` with `orient="index"`
            "a.json",
            json.dumps({str(number): {"q": number} for number in range(5000)}).encode(),
            ": expected a list of rows; found an object with the keys 0, 1, 2, 3, 4, ...; write a list of objects",
        ),
        ("a.json", b"{}", ": expected a list of rows; found an object; write a list of objects"),
        ("a.csv", b"q,answer,answer\na,1,2\n", ":1: column 'answer' occurs twice; rename or remove all but one"),
        ("a.csv", b"q,answer,,\na,1,,\n", ":1: several columns have no name; rename or remove all but one"),
        ("a.csv", b"q;answer\na;1\n", ":1: one column, 'q;answer': its cells seem to be separated by semicolons"),
        ("a.csv", b"q\tanswer\na\t1\n", ":1: one column, 'q\\tanswer': its cells seem to be separated by tabs"),
        ("a.csv", b'q,answer\n"a\nb",1\nx\n', ":4: expected 2 cells; found 1"),
        ("a.csv", b'q,answer\n"a "b"",1\n', ":2: ',' expected after '\"'; is a quote missing or not doubled?"),
        ("a.csv", b"q,answer\nWhat, then?,1\n", ":2: expected 2 cells; found 3; put cells with commas in quotes"),
        ("a.csv", b"\nq,answer,q\n", ":2: column 'q' occurs twice"),
        ("a.jsonl.gz", b"\x1f\x8b", ": compressed; unpack it first"),
        ("a.zip", b"PK", ": compressed; unpack it first"),
        ("a.tsv", b"q\n", ": unknown format; rows are read from .jsonl, .json, .csv, .parquet"),
        ("a.jsonl", b"<!DOCTYPE html>\n<html>", ": a web page, not the file; on the Hub, files are at `/resolve/`"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\noid", ": a Git LFS pointer instead of the file"),
        ("a.parquet", SMALL[:-20], ": cannot be read as rows: damaged or truncated: "),
        ("a.parquet", SMALL[:60], ": cannot be read as rows: damaged or truncated: "),
        ("a.parquet", parquet(("q", ["a"]), ("q", ["b"])), ": column 'q' occurs twice; rename or remove all but one"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, name: str, content: bytes, problem: str) -> None:
    (tmp_path / name).write_bytes(content)
    found = refusal(tmp_path / name)
    assert found[: len(problem)] == problem


def test_a_row_keeps_its_place_in_another_process() -> None:
    row = pickle.loads(pickle.dumps(Row({"q": 1}, "rows.jsonl:3")))
    assert (row, row.place) == ({"q": 1}, "rows.jsonl:3")


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; `/moved/X` redirects to `/X`."""

    def do_GET(self) -> None:
        if self.path.startswith("/moved/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/moved"))
            self.end_headers()
        else:
            super().do_GET()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("CYCLEQD_CACHE", str(tmp_path / "cache"))
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "rows.jsonl").write_text(LINES)
    (tmp_path / "site" / "rows").write_text(LINES)
    (tmp_path / "site" / "page.jsonl").write_text("<!doctype html><html></html>")
    handler = functools.partial(Handler, directory=str(tmp_path / "site"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


SHA = hashlib.sha256(LINES.encode()).hexdigest()


@pytest.mark.parametrize(
    "address", ["rows.jsonl", "rows.jsonl?download=true", "rows.jsonl?raw=1#top", "moved/rows.jsonl", "ro%77s.jsonl"]
)
def test_an_address_may_have_a_query_and_may_redirect(site: str, address: str) -> None:
    rows = read_rows(RowsConfig(url=f"{site}/{address}", sha256=SHA))
    assert rows == PAIR
    assert rows[1].place == f"{site}/{address}:2"


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("rows", ": unknown format; rows are read from .jsonl"),
        ("get?file=rows.jsonl", ": unknown format"),
        ("rows.jsonl.gz", ": compressed; unpack it first"),
        ("none.jsonl", ": cannot be downloaded: HTTP Error 404"),
        ("page.jsonl", f": wrong checksum: expected sha256 {SHA}, found "),
    ],
)
def test_an_address_that_gives_no_rows_is_refused(site: str, address: str, problem: str) -> None:
    with pytest.raises(DataError) as raised:
        read_rows(RowsConfig(url=f"{site}/{address}", sha256=SHA))
    assert str(raised.value).startswith(f"{site}/{address}{problem}")
    assert str(raised.value).endswith("`/resolve/`, not `/blob/`") == (address == "page.jsonl")
