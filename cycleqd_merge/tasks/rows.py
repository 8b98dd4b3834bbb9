"""Reading a dataset's rows from a file, a URL or the Hub."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cycleqd_merge.cache import cache_folder
from cycleqd_merge.config.rows import RowsConfig
from cycleqd_merge.errors import DataError, first_line
from cycleqd_merge.files import new_file
from cycleqd_merge.hub_errors import hub_errors

Row = Mapping[str, Any]
"""Column -> value."""


def read_rows(source: RowsConfig) -> list[Row]:
    """The rows of a file or Hub dataset, in order. CSV cells stay text: nothing is converted to numbers or dates.

    Raises:
        DataError: the file is missing, unreadable, in an unknown format, empty, or does not match its checksum.
        UserError: the Hub refuses the dataset, or cannot be reached.
    """
    if source.dataset is not None:
        label, rows = source.dataset, _from_hub(source)
    else:
        path = Path(source.path) if source.path is not None else _downloaded(str(source.url), str(source.sha256))
        label, rows = source.label if source.url else str(path), _from_file(path, source.sha256)
    if not rows:
        raise DataError(f"{label}: no rows")
    if source.only is None:
        return rows
    beyond = [place for place in source.only if place >= len(rows)]
    if beyond:
        raise DataError(f"{label}: `only` lists row {beyond[0]}; its {len(rows)} rows are 0 to {len(rows) - 1}")
    return [rows[place] for place in source.only]


def _downloaded(url: str, sha256: str) -> Path:
    """A file from the web, kept in the cache under its checksum."""
    path = cache_folder("rows") / f"{sha256}{Path(url).suffix}"
    if not path.exists():
        try:
            with new_file(path) as unchecked:
                with urllib.request.urlopen(url, timeout=60) as answer, unchecked.open("wb") as file:
                    shutil.copyfileobj(answer, file)
                _require_sha256(unchecked, sha256, url)
        except (OSError, ValueError) as error:
            raise DataError(f"{url}: cannot be downloaded: {error}") from error
    return path


def _require_sha256(path: Path, sha256: str, label: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise DataError(f"{label}: wrong checksum: expected sha256 {sha256}, found {found}")


def _from_file(path: Path, sha256: str | None = None) -> list[Row]:
    readers = {".jsonl": _read_jsonl, ".json": _read_json, ".csv": _read_csv, ".parquet": _read_parquet}
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.suffix not in readers:
        raise DataError(f"{path}: unknown format; rows are read from {', '.join(readers)}")
    if sha256 is not None:
        _require_sha256(path, sha256, str(path))
    try:
        return readers[path.suffix](path)
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 text") from None
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as rows: {first_line(error)}") from error


def _read_jsonl(path: Path) -> list[Row]:
    rows = []
    lines = path.read_text(encoding="utf-8-sig").split("\n")  # not `splitlines`: JSON strings may contain U+2028
    for line, text in enumerate(lines, start=1):
        if text.strip():
            try:
                rows.append(_as_row(json.loads(text), f"{path}:{line}"))
            except json.JSONDecodeError as error:
                raise DataError(f"{path}:{line}: not JSON: {error.msg}") from None
    return rows


def _read_json(path: Path) -> list[Row]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not JSON: {error.msg}") from None
    if not isinstance(rows, list):
        raise DataError(f"{path}: expected a list of rows; found {type(rows).__name__}")
    return [_as_row(row, f"{path}: row {place}") for place, row in enumerate(rows, start=1)]


def _read_csv(path: Path) -> list[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        header = next(reader, [])
        rows: list[Row] = []
        for cells in filter(None, reader):
            if len(cells) != len(header):
                raise DataError(f"{path}:{reader.line_num}: expected {len(header)} cells; found {len(cells)}")
            rows.append(dict(zip(header, cells, strict=True)))
    return rows


def _read_parquet(path: Path) -> list[Row]:
    import pyarrow.parquet

    return list(pyarrow.parquet.read_table(path).to_pylist())


def _as_row(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected an object of columns and values; found {type(value).__name__}")
    return value


def _from_hub(source: RowsConfig) -> list[Row]:
    import datasets

    try:
        with hub_errors(f"dataset {source.dataset}"):
            rows = datasets.load_dataset(source.dataset, source.config, split=source.split, revision=source.revision)
            return list(rows)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"dataset {source.dataset}: cannot be read: {first_line(error)}") from error
