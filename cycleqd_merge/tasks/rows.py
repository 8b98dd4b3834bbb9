"""Reading rows and dividing them into search and held-out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cycleqd_merge.errors import UserError
from cycleqd_merge.evolution.draws import generator
from cycleqd_merge.recipe.task_file import RowsFrom, SplitRows, TwoFiles
from cycleqd_merge.tasks.protocol import Sample, Split

Row = Mapping[str, Any]
_BUILDERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}


def read_rows(source: RowsFrom, folder: Path) -> list[Row]:
    """All rows of a file or Hub dataset, in order.

    Raises:
        UserError: no such file, unknown ending, unreadable content, or no rows.
    """
    import datasets

    if source.path is None:
        name, origin = str(source.dataset), {"name": source.config, "revision": source.revision}
        label, split = name, source.split
    else:
        path = folder / source.path
        if not path.is_file():
            raise UserError(f"{path}: no such file")
        if path.suffix not in _BUILDERS:
            raise UserError(f"{path}: rows are read from {', '.join(_BUILDERS)}")
        if path.stat().st_size == 0:
            raise UserError(f"{path}: no rows")
        name, origin, label, split = _BUILDERS[path.suffix], {"data_files": str(path)}, str(path), "train"
    try:
        rows = list(datasets.load_dataset(name, split=split, streaming=True, **origin))
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise UserError(f"{label}: cannot be read as rows: {str(error).splitlines()[0]}") from error
    if not rows:
        raise UserError(f"{label}: no rows")
    return rows


def divide(data: SplitRows | TwoFiles, folder: Path) -> dict[Split, list[Sample]]:
    """Samples per split, each with an id that follows from its content.

    Raises:
        UserError: rows cannot be read, or one split would be empty.
    """
    if isinstance(data, TwoFiles):
        return {
            "search": number(read_rows(data.search, folder)),
            "heldout": number(read_rows(data.heldout, folder)),
        }
    samples = number(read_rows(data.rows, folder))
    if len(samples) < 2:
        raise UserError(f"{data.rows.path or data.rows.dataset}: 1 row cannot be divided into search and held-out")
    order = generator(data.seed, "split").permutation(len(samples))
    half = (len(samples) + 1) // 2
    return {
        "search": [samples[i] for i in sorted(order[:half])],
        "heldout": [samples[i] for i in sorted(order[half:])],
    }


def number(rows: Sequence[Row]) -> list[Sample]:
    """Samples of rows. The id is a digest of the row, with a count where rows repeat."""
    seen: dict[str, int] = {}
    samples = []
    for row in rows:
        text = json.dumps(row, sort_keys=True, ensure_ascii=False, default=str)
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        seen[digest] = seen.get(digest, 0) + 1
        samples.append(Sample(digest if seen[digest] == 1 else f"{digest}-{seen[digest]}", row))
    return samples
