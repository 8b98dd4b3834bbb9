"""Turning rows into samples, and dividing these into a search and a held-out split."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from cycleqd_merge.config.rows import SplitRowsConfig, TwoFilesConfig
from cycleqd_merge.errors import DataError
from cycleqd_merge.evolution.draws import generator
from cycleqd_merge.tasks.equal_rows import draw_groups, groups_of, row_content
from cycleqd_merge.tasks.protocol import Sample, TaskSplit
from cycleqd_merge.tasks.rows import read_rows

Row = Mapping[str, Any]
"""Column -> value."""


def read_splits(
    data: SplitRowsConfig | TwoFilesConfig,
    label: Callable[[Row], str] = lambda row: "",
    content: Callable[[Sample], str] = row_content,
    check: Callable[[Sequence[Sample]], None] = lambda samples: None,
) -> dict[TaskSplit, list[Sample]]:
    """The samples of each split of a dataset.

    label: see `samples_of`. content: see `halves`. check: called with all samples in the order of their rows, before
    they are divided; raises DataError.

    Raises:
        DataError: rows cannot be read, `check` refuses them, or a split would be empty.
    """
    if isinstance(data, TwoFilesConfig):
        search, heldout = (samples_of(read_rows(part), label) for part in (data.search, data.heldout))
        check([*search, *heldout])
        return {"search": search, "heldout": heldout}
    samples = samples_of(read_rows(data.rows), label)
    check(samples)
    if len(samples) < 2:
        raise DataError(f"{data.rows.label}: 1 row cannot be divided into a search and a held-out split")
    try:
        return halves(samples, data.seed, content)
    except DataError as error:
        raise DataError(f"{data.rows.label}: {error}") from None


def place_of(sample: Sample) -> str:
    """Where a sample's row is, for messages: its file and line, or its id."""
    return row_place(sample) or f"row {sample.id}"


def row_place(sample: Sample) -> str:
    """The file and line of a sample's row, such as `data/rows.jsonl:12`; empty if it has none."""
    return str(getattr(sample.row, "place", ""))


def halves(
    samples: Sequence[Sample], seed: int, content: Callable[[Sample], str] = row_content
) -> dict[TaskSplit, list[Sample]]:
    """Samples divided into halves drawn by `seed`, each in the given order. The search split may have more.

    content: equal for samples that must be in the same half. Only such samples can make the halves differ by more than
    one; they then differ as little as possible.

    Raises:
        DataError: all samples are equal.
    """
    contents = [content(sample) for sample in samples]
    if len(set(contents)) < 2:
        raise DataError(f"its {len(samples)} rows are all equal; they cannot be divided into search and held-out rows")
    order = generator(seed, "split").permutation(len(samples)).tolist()
    half = (len(samples) + 1) // 2
    search = draw_groups(order, contents, half)
    if len(search) < half:
        search = _most_even(groups_of(order, contents), half)
    return {
        "search": [sample for place, sample in enumerate(samples) if place in search],
        "heldout": [sample for place, sample in enumerate(samples) if place not in search],
    }


def _most_even(groups: Sequence[Sequence[int]], half: int) -> set[int]:
    """Places of whole groups, of each size the first ones, that together are as few as possible but at least `half`."""
    chunks = []  # (size, number of groups): numbers are powers of two, so that few chunks give every number
    for size, count in Counter(map(len, groups)).items():
        number = 1
        while count:
            chunks.append((size, min(number, count)))
            count -= chunks[-1][1]
            number *= 2
    totals = [1]  # after each chunk, a set of bits: which totals of rows are possible
    for size, number in chunks:
        totals.append(totals[-1] | totals[-1] << size * number)
    left = half + ((totals[-1] >> half) & -(totals[-1] >> half)).bit_length() - 1
    wanted: Counter[int] = Counter()
    for (size, number), (before, _) in reversed(list(zip(chunks, pairwise(totals), strict=True))):
        if not before >> left & 1:
            wanted[size] += number
            left -= size * number
    chosen: set[int] = set()
    for group in groups:
        if wanted[len(group)]:
            wanted[len(group)] -= 1
            chosen.update(group)
    return chosen


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
