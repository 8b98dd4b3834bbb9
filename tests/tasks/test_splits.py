"""Search and held-out splits: even, disjoint, and reproducible."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cycleqd_merge.config.rows import RowsConfig, SplitRowsConfig, TwoFilesConfig
from cycleqd_merge.errors import DataError
from cycleqd_merge.tasks.splits import read_splits, samples_of
from tests.tasks.scripted import write_rows


def splits_of(folder: Path, rows: int, seed: int) -> dict[str, list[str]]:
    """Ids of the samples of a file with `rows` rows, by split."""
    path = write_rows(folder / f"{rows}.jsonl", *({"q": place} for place in range(rows)))
    halves = read_splits(SplitRowsConfig(rows=RowsConfig(path=str(path)), seed=seed))
    return {split: [sample.id for sample in samples] for split, samples in halves.items()}


@given(rows=st.integers(2, 40), seed=st.integers(0, 2**40))
def test_halves_are_even_and_disjoint_and_contain_every_row(
    tmp_path_factory: pytest.TempPathFactory, rows: int, seed: int
) -> None:
    halves = splits_of(tmp_path_factory.getbasetemp(), rows, seed)
    search, heldout = halves["search"], halves["heldout"]
    assert 0 <= len(search) - len(heldout) <= 1
    assert not set(search) & set(heldout)
    assert set(search) | set(heldout) == {sample.id for sample in samples_of([{"q": place} for place in range(rows)])}


def test_halves_keep_the_order_of_the_file(tmp_path: Path) -> None:
    order = {sample.id: place for place, sample in enumerate(samples_of([{"q": place} for place in range(30)]))}
    for half in splits_of(tmp_path, 30, seed=1).values():
        assert [order[name] for name in half] == sorted(order[name] for name in half)


def test_another_process_draws_the_same_halves(tmp_path: Path) -> None:
    program = (
        "import json, sys; from pathlib import Path; from tests.tasks.test_splits import splits_of;"
        "print(json.dumps(splits_of(Path(sys.argv[1]), 23, seed=5)))"
    )
    there = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(there.stdout) == splits_of(tmp_path, 23, seed=5)


def test_the_seed_determines_the_halves(tmp_path: Path) -> None:
    drawn = {tuple(splits_of(tmp_path, 20, seed)["search"]) for seed in range(10)}
    assert len(drawn) == 10


def test_one_row_cannot_be_divided(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"/1\.jsonl: 1 row cannot be divided into a search and a held-out split$"):
        splits_of(tmp_path, 1, seed=0)


def test_two_files_stay_as_they_are(tmp_path: Path) -> None:
    for name, questions in (("a", "xyz"), ("b", "uv")):
        write_rows(tmp_path / f"{name}.jsonl", *({"q": question} for question in questions))
    search, heldout = (RowsConfig(path=str(tmp_path / f"{name}.jsonl")) for name in "ab")
    halves = read_splits(TwoFilesConfig(search=search, heldout=heldout))
    assert {split: [sample.row["q"] for sample in samples] for split, samples in halves.items()} == {
        "search": ["x", "y", "z"],
        "heldout": ["u", "v"],
    }


def test_ids_follow_from_content_and_not_from_the_order_of_keys() -> None:
    one, same, other = samples_of([{"a": 1, "b": {"x": 1, "y": 2}}, {"b": {"y": 2, "x": 1}, "a": 1}, {"a": 1, "b": {}}])
    assert same.id == f"{one.id}-2"  # repeated rows are numbered
    assert other.id != one.id
    assert [sample.id for sample in samples_of([{"b": {"y": 2, "x": 1}, "a": 1}])] == [one.id]


def test_ids_do_not_depend_on_other_rows() -> None:
    alone = samples_of([{"q": "é"}])[0].id
    assert [sample.id for sample in samples_of([{"q": "a"}, {"q": "é"}])][1] == alone


def test_ids_distinguish_rows_that_look_alike() -> None:
    rows: list[dict[str, Any]] = [
        {"q": 1},
        {"q": "1"},
        {"q": 1.0},
        {"q": True},
        {"q": None},
        {"q": "None"},
        {"q": [1]},
        {"p": 1},
    ]
    assert len({sample.id for sample in samples_of(rows)}) == len(rows)
