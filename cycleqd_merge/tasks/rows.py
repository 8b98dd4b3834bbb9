"""Reading rows and dividing them into search and held-out."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cycleqd_merge.cache import cache_folder
from cycleqd_merge.config.rows import RowsConfig, SplitRowsConfig, TwoFilesConfig
from cycleqd_merge.errors import UserError
from cycleqd_merge.evolution.draws import generator
from cycleqd_merge.hub_errors import hub_errors
from cycleqd_merge.tasks.protocol import Sample, TaskSplit

Row = Mapping[str, Any]


def read_rows(source: RowsConfig) -> list[Row]:
    """The rows of a file or Hub dataset, in order. CSV cells are text; nothing guesses at numbers or dates.

    Raises:
        UserError: no such file, another file than its checksum says, unknown ending, unreadable content, or no rows.
    """
    if source.dataset is not None:
        label, rows = source.dataset, _from_hub(source)
    else:
        path = Path(source.path) if source.path is not None else _downloaded(str(source.url), str(source.sha256))
        label, rows = source.label if source.url else str(path), _from_file(path, source.sha256)
    if not rows:
        raise UserError(f"{label}: no rows")
    if source.only is None:
        return rows
    beyond = [place for place in source.only if place >= len(rows)]
    if beyond:
        raise UserError(f"{label}: `only` names row {beyond[0]}; there are {len(rows)} rows, counted from 0")
    return [rows[place] for place in source.only]


def _downloaded(url: str, sha256: str) -> Path:
    """A file of the web in the cache, under its checksum; fetched once."""
    path = cache_folder("rows") / f"{sha256}{Path(url).suffix}"
    if not path.exists():
        unchecked = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            with urllib.request.urlopen(url, timeout=60) as answer, unchecked.open("wb") as file:
                shutil.copyfileobj(answer, file)
            _require_sha256(unchecked, sha256, url)
            unchecked.replace(path)
        except (OSError, ValueError) as error:
            raise UserError(f"{url}: cannot be fetched: {error}") from error
        finally:
            unchecked.unlink(missing_ok=True)
    return path


def _require_sha256(path: Path, sha256: str, label: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise UserError(f"{label}: another file than its sha256 says: it has {found}, not {sha256}")


def _from_file(path: Path, sha256: str | None = None) -> list[Row]:
    readers = {".jsonl": _read_jsonl, ".json": _read_json, ".csv": _read_csv, ".parquet": _read_parquet}
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if path.suffix not in readers:
        raise UserError(f"{path}: rows are read from {', '.join(readers)}")
    if sha256 is not None:
        _require_sha256(path, sha256, str(path))
    try:
        return readers[path.suffix](path)
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text") from None
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as rows: {str(error).splitlines()[0]}") from error


def _read_jsonl(path: Path) -> list[Row]:
    rows = []
    lines = path.read_text(encoding="utf-8-sig").split("\n")  # a JSON text may hold what else `splitlines` cuts at
    for line, text in enumerate(lines, start=1):
        if text.strip():
            try:
                rows.append(_as_row(json.loads(text), f"{path}:{line}"))
            except json.JSONDecodeError as error:
                raise UserError(f"{path}:{line}: not JSON: {error.msg}") from None
    return rows


def _read_json(path: Path) -> list[Row]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON: {error.msg}") from None
    if not isinstance(rows, list):
        raise UserError(f"{path}: expected a list of rows")
    return [_as_row(row, f"{path}: row {place}") for place, row in enumerate(rows, start=1)]


def _read_csv(path: Path) -> list[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        header = next(reader, [])
        rows: list[Row] = []
        for cells in filter(None, reader):
            if len(cells) != len(header):
                raise UserError(f"{path}:{reader.line_num}: {len(cells)} cells under {len(header)} columns")
            rows.append(dict(zip(header, cells, strict=True)))
    return rows


def _read_parquet(path: Path) -> list[Row]:
    import pyarrow.parquet

    return list(pyarrow.parquet.read_table(path).to_pylist())


def _as_row(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected columns with values, found {type(value).__name__}")
    return value


def _from_hub(source: RowsConfig) -> list[Row]:
    import datasets

    try:
        with hub_errors(f"dataset {source.dataset}"):
            rows = datasets.load_dataset(source.dataset, source.config, split=source.split, revision=source.revision)
            return list(rows)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise UserError(f"dataset {source.dataset}: cannot be read: {str(error).splitlines()[0]}") from error


def divide(
    data: SplitRowsConfig | TwoFilesConfig, name: Callable[[Row], str] = lambda row: ""
) -> dict[TaskSplit, list[Sample]]:
    """Samples per split, each with an id that follows from its content; `name` gives a part of it for people.

    Raises:
        UserError: rows cannot be read, or one split would be empty.
    """
    if isinstance(data, TwoFilesConfig):
        return {
            "search": number(read_rows(data.search), name),
            "heldout": number(read_rows(data.heldout), name),
        }
    samples = number(read_rows(data.rows), name)
    if len(samples) < 2:
        raise UserError(f"{data.rows.label}: 1 row cannot be divided into search and held-out")
    return halves(samples, data.seed)


def halves(samples: Sequence[Sample], seed: int) -> dict[TaskSplit, list[Sample]]:
    """Samples divided in two by `seed`, each half in their order; of an odd number the search gets one more."""
    order = generator(seed, "split").permutation(len(samples))
    half = (len(samples) + 1) // 2
    return {
        "search": [samples[i] for i in sorted(order[:half])],
        "heldout": [samples[i] for i in sorted(order[half:])],
    }


def number(rows: Sequence[Row], name: Callable[[Row], str] = lambda row: "") -> list[Sample]:
    """Samples of rows. The id is a digest of the row, with its name before it and a count where rows repeat."""
    seen: dict[str, int] = {}
    samples = []
    for row in rows:
        text = json.dumps(row, sort_keys=True, ensure_ascii=False, default=str)
        named = name(row)
        digest = f"{named}{'@' if named else ''}{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        seen[digest] = seen.get(digest, 0) + 1
        samples.append(Sample(digest if seen[digest] == 1 else f"{digest}-{seen[digest]}", row))
    return samples
