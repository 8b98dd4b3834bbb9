"""Rows of a file: JSONL, JSON, CSV or Parquet. Every row knows its place, and every error names one."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from cycleqd_merge.config.validation_errors import short_repr
from cycleqd_merge.errors import DataError, brief, first_line

_BATCH = 10_000
_MOST_CELLS, _MOST_BYTES = 50_000_000, 2 * 2**30
"""Cells and bytes of a file or dataset. Compressed ones can be tiny, and still fill all memory once they are read."""


class Row(dict[str, Any]):
    """Column -> value. place: where the row is, such as `data/rows.jsonl:12`."""

    def __init__(self, columns: dict[str, Any], place: str = "") -> None:
        super().__init__(columns)
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return Row, (dict(self), self.place)


def read_file(path: Path, label: str) -> list[Row]:
    """The rows of a file, in order. label: the file's name in messages.

    Raises:
        DataError: its format is unknown, it cannot be read, or a row is damaged.
    """
    reader = READERS[format_of(path.name, label)]
    try:
        require_size(label, 0, path.stat().st_size)
        content = path.read_bytes()
        _require_data(content[:1024], label)
        return reader(content, label)
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{label}: cannot be read as rows: {first_line(error)}") from error


def format_of(name: str, label: str) -> str:
    """The ending of a file's name that states its format, in lower case.

    Raises:
        DataError: the format is unknown.
    """
    ending = Path(name).suffix.lower()
    if ending in (".gz", ".bz2", ".xz", ".zst", ".zip"):
        raise DataError(f"{label}: compressed; unpack it first")
    if ending not in READERS:
        raise DataError(f"{label}: unknown format; rows are read from {', '.join(READERS)}")
    return ending


def require_size(label: str, cells: int, size: int) -> None:
    """Check a number of cells, and of bytes.

    Raises:
        DataError: there are too many.
    """
    if cells > _MOST_CELLS or size > _MOST_BYTES:
        found = f"{cells:,} cells" if cells > _MOST_CELLS else f"{size // 2**20:,} MiB"
        most = f"{_MOST_CELLS:,} cells and {_MOST_BYTES // 2**20:,} MiB"
        raise DataError(
            f"{label}: {found}; at most {most} are read; save the rows that you need as a file of their own"
        )


def _require_data(start: bytes, label: str) -> None:
    """Refuse what is often stored under a data file's name instead of the file."""
    if start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise DataError(f"{label}: a web page, not the file; on the Hub, files are at `/resolve/`, not `/blob/`")
    if start.startswith(b"version https://git-lfs.github.com/spec/"):
        raise DataError(f"{label}: a Git LFS pointer instead of the file; fetch it with `git lfs pull`")


def _text(content: bytes, label: str) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{label}: UTF-16 text; save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, byte = error.object.count(b"\n", 0, error.start) + 1, error.object[error.start]
        raise DataError(f"{label}:{line}: not UTF-8 text (byte 0x{byte:02x}); save the file as UTF-8") from None
    if (place := text.find("\0")) >= 0:
        line = text.count("\n", 0, place) + 1
        raise DataError(f"{label}:{line}: a NUL byte: a damaged file, or UTF-16 text; save it as UTF-8")
    return text


def _read_jsonl(content: bytes, label: str) -> list[Row]:
    text = _text(content, label)
    try:
        return _lines(text, label)
    except DataError:
        rows = _several_values(text, label)
        if rows is None:
            raise
        return rows


def _read_json(content: bytes, label: str) -> list[Row]:
    text = _text(content, label)
    try:
        value = _JSON.decode(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # JSON Lines under this name, as on the Hub
            return _read_jsonl(content, label)
        raise DataError(f"{label}:{error.lineno}: not JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{label}: {_reason(error)}") from None
    if not isinstance(value, list):
        shown = [*value][:5] + ["..."] * (len(value) > 5) if isinstance(value, dict) else []
        keys = f" with the keys {', '.join(shown)}" if shown else ""
        raise DataError(
            f"{label}: expected a list of rows; found {_kind(value)}{keys}; write a list of objects "
            'with a key per column (pandas: `to_json(..., orient="records")`)'
        )
    return _listed(value, label)


def _lines(text: str, label: str) -> list[Row]:
    rows = []
    for line, row in enumerate(text.split("\n"), start=1):  # not `splitlines`: JSON strings may contain U+2028
        if row.strip():
            place = f"{label}:{line}"
            try:
                value = _JSON.decode(row)
            except json.JSONDecodeError as error:
                raise DataError(f"{place}: not JSON: {error.msg}") from None
            except (ValueError, RecursionError) as error:
                raise DataError(f"{place}: {_reason(error)}") from None
            rows.append(_row(value, place))
    return rows


def _several_values(text: str, label: str) -> list[Row] | None:
    """Rows that are spread over several lines: a JSON list, or one object after another. None: they are neither."""
    start, line, counted = _next(text, 0), 1, 0
    rows: list[Row] = []
    try:
        if text.startswith("[", start):
            value = _JSON.decode(text)
            return _listed(value, label) if value and all(isinstance(row, dict) for row in value) else None
        while start < len(text):
            line, counted = line + text.count("\n", counted, start), start
            value, end = _JSON.raw_decode(text, start)
            rows.append(_row(value, f"{label}:{line}"))
            start = _next(text, end)
    except (ValueError, RecursionError):
        return None
    return rows


def _next(text: str, start: int) -> int:
    """The place of the first character from `start` on that is not white space."""
    blank = re.compile(r"\s*").match(text, start)
    return start if blank is None else blank.end()


def _listed(rows: list[Any], label: str) -> list[Row]:
    return [_row(row, f"{label}: row {number}") for number, row in enumerate(rows, start=1)]


def _row(value: Any, place: str) -> Row:
    """A row from a JSON value.

    Raises:
        DataError: it is not an object, or contains text that no file of UTF-8 can: a lone surrogate.
    """
    if not isinstance(value, dict):
        raise DataError(f"{place}: expected an object of columns and values; found {_kind(value)}")
    for column, content in value.items():
        try:
            json.dumps([column, content], ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = ascii(error.object[error.start])
            raise DataError(
                f"{place}: column {column!a}: {half} is half of a character (a lone surrogate); repair the text"
            ) from None
        except RecursionError:
            raise DataError(f"{place}: column {column!r}: nested too deeply") from None
    return Row(value, place)


def _kind(value: Any) -> str:
    return {dict: "an object", list: "a list", type(None): "null"}.get(type(value), type(value).__name__)


def _reason(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else first_line(error)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        name = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {name!r} occurs twice in {short_repr(found)}; rename one of them")
    return found


_JSON = json.JSONDecoder(object_pairs_hook=_object)


def _read_csv(content: bytes, label: str) -> list[Row]:
    reader = csv.reader(io.StringIO(_text(content, label), newline=""), strict=True)
    limit = csv.field_size_limit(len(content) + 1)
    try:
        return list(_csv_rows(reader, label))
    except csv.Error as error:
        raise DataError(f"{label}:{reader.line_num}: {error}; is a quote missing or not doubled?") from None
    finally:
        csv.field_size_limit(limit)


def _csv_rows(reader: Any, label: str) -> Iterator[Row]:
    header: list[str] = next(filter(any, reader), [])
    _require_columns(header, f"{label}:{max(reader.line_num, 1)}")
    end = reader.line_num
    for cells in reader:
        line, end = end + 1, reader.line_num
        if not any(cells):  # an empty line, or one of a spreadsheet: `,,,`
            continue
        if len(cells) != len(header):
            hint = "; put cells with commas in quotes" if len(cells) > len(header) else ""
            raise DataError(f"{label}:{line}: expected {len(header)} cells; found {len(cells)}{hint}")
        yield Row(dict(zip(header, cells, strict=True)), f"{label}:{line}")


def _require_columns(header: list[str], place: str) -> None:
    if len(header) == 1:
        for name, separator in (("semicolons", ";"), ("tabs", "\t"), ("bars", "|")):
            if separator in header[0]:
                what = f"one column, {brief(header[0])!r}: its cells seem to be separated by {name}"
                raise DataError(f"{place}: {what}; save it with commas")
    _require_distinct(header, place)


def _require_distinct(names: Iterable[str], place: str) -> None:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        what = f"column {brief(repeated[0])!r} occurs twice" if repeated[0] else "several columns have no name"
        raise DataError(f"{place}: {what}; rename or remove all but one")


def _read_parquet(content: bytes, label: str) -> list[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(content))
        _require_distinct(file.schema_arrow.names, label)
        groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
        stated = file.metadata.num_rows * max(1, file.metadata.num_columns)
        require_size(label, stated, sum(group.total_byte_size for group in groups))
        batches, size = list[Any](), 0
        for batch in file.iter_batches(_BATCH):
            size += batch.nbytes
            require_size(label, 0, size)
            batches.append(batch)
        rows = (row for batch in batches for row in batch.to_pylist())
        return [Row(row, f"{label}: row {number}") for number, row in enumerate(rows, start=1)]
    except UnicodeDecodeError:
        raise DataError(f"{label}: a text column is not UTF-8; write the file again with text as UTF-8") from None
    except (pyarrow.ArrowException, OSError) as error:
        _damaged(error, label)
    except (ValueError, ArithmeticError, LookupError) as error:  # a time beyond the calendar, or in an unknown zone
        raise DataError(f"{label}: a value that Python cannot represent: {first_line(error)}") from error


def _damaged(error: Exception, label: str) -> NoReturn:
    reason = first_line(error).removeprefix("Could not open Parquet input source '<Buffer>': ")
    raise DataError(f"{label}: cannot be read as rows: damaged or truncated: {reason}") from error


READERS: dict[str, Callable[[bytes, str], list[Row]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
"""Reader of each format, by the ending of a file's name."""
