"""Turning rows into samples, and dividing these into a search and a held-out split."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence

from cycleqd_merge.config.rows import SplitRowsConfig, TwoFilesConfig
from cycleqd_merge.errors import DataError
from cycleqd_merge.evolution.draws import generator
from cycleqd_merge.tasks.protocol import Sample, TaskSplit
from cycleqd_merge.tasks.rows import Row, read_rows


def read_splits(
    data: SplitRowsConfig | TwoFilesConfig, label: Callable[[Row], str] = lambda row: ""
) -> dict[TaskSplit, list[Sample]]:
    """The samples of each split of a dataset. label: see `samples_of`.

    Raises:
        DataError: rows cannot be read, or a split would be empty.
    """
    if isinstance(data, TwoFilesConfig):
        return {
            "search": samples_of(read_rows(data.search), label),
            "heldout": samples_of(read_rows(data.heldout), label),
        }
    samples = samples_of(read_rows(data.rows), label)
    if len(samples) < 2:
        raise DataError(f"{data.rows.label}: 1 row cannot be divided into a search and a held-out split")
    return halves(samples, data.seed)


def place_of(data: SplitRowsConfig | TwoFilesConfig, split: TaskSplit, sample: Sample) -> str:
    """Where a sample's row is, for messages: its source, its number there (counted from 1), and its id."""
    source = getattr(data, split) if isinstance(data, TwoFilesConfig) else data.rows
    rows = read_rows(source)
    numbers = source.only or range(len(rows))
    number = next(number for number, row in zip(numbers, rows, strict=True) if row is sample.row or row == sample.row)
    return f"{source.label}: row {number + 1} ({sample.id})"


def halves(samples: Sequence[Sample], seed: int) -> dict[TaskSplit, list[Sample]]:
    """Samples divided into halves drawn by `seed`, each in the given order. The search split may have one more."""
    order = generator(seed, "split").permutation(len(samples))
    half = (len(samples) + 1) // 2
    return {
        "search": [samples[i] for i in sorted(order[:half])],
        "heldout": [samples[i] for i in sorted(order[half:])],
    }


def samples_of(rows: Sequence[Row], label: Callable[[Row], str] = lambda row: "") -> list[Sample]:
    """A sample per row. Its id is `label@digest`: a digest of the row's content and, if it has one, a readable label.

    Repeated rows are numbered: `digest`, `digest-2`, ...
    """
    seen: dict[str, int] = {}
    samples = []
    for row in rows:
        text = json.dumps(row, sort_keys=True, ensure_ascii=False, default=str)
        prefix = f"{name}@" if (name := label(row)) else ""
        key = f"{prefix}{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        seen[key] = seen.get(key, 0) + 1
        samples.append(Sample(key if seen[key] == 1 else f"{key}-{seen[key]}", row))
    return samples
