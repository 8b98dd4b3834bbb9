"""Search and held-out splits: even, disjoint, and reproducible."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cycleqd_merge.config.rows import RowsConfig, SplitRowsConfig, TwoFilesConfig
from cycleqd_merge.errors import DataError
from cycleqd_merge.evolution.draws import generator
from cycleqd_merge.tasks.protocol import Sample
from cycleqd_merge.tasks.splits import halves, read_splits, samples_of
from tests.tasks.scripted import write_rows


def splits_of(folder: Path, rows: int, seed: int) -> dict[str, list[str]]:
    """Ids of the samples of a file with `rows` rows, by split."""
    path = write_rows(folder / f"{rows}.jsonl", *({"q": place} for place in range(rows)))
    divided = read_splits(SplitRowsConfig(rows=RowsConfig(path=str(path)), seed=seed))
    return {split: [sample.id for sample in samples] for split, samples in divided.items()}


@given(rows=st.integers(2, 40), seed=st.integers(0, 2**40))
def test_halves_are_even_and_disjoint_and_contain_every_row(
    tmp_path_factory: pytest.TempPathFactory, rows: int, seed: int
) -> None:
    divided = splits_of(tmp_path_factory.getbasetemp(), rows, seed)
    search, heldout = divided["search"], divided["heldout"]
    assert 0 <= len(search) - len(heldout) <= 1
    assert not set(search) & set(heldout)
    assert set(search) | set(heldout) == {sample.id for sample in samples_of([{"q": place} for place in range(rows)])}


def test_halves_keep_the_order_of_the_file(tmp_path: Path) -> None:
    order = {sample.id: place for place, sample in enumerate(samples_of([{"q": place} for place in range(30)]))}
    for half in splits_of(tmp_path, 30, seed=1).values():
        assert [order[name] for name in half] == sorted(order[name] for name in half)


GROUPS = st.lists(st.integers(1, 7), min_size=2, max_size=8)


def before(samples: list[Sample], seed: int) -> dict[str, list[Sample]]:
    """The division as it was before equal rows were kept together."""
    order = generator(seed, "split").permutation(len(samples))
    half = (len(samples) + 1) // 2
    return {
        "search": [samples[place] for place in sorted(order[:half])],
        "heldout": [samples[place] for place in sorted(order[half:])],
    }


@given(rows=st.integers(2, 60), seed=st.integers(0, 2**40))
def test_without_equal_rows_the_division_is_what_it_always_was(rows: int, seed: int) -> None:
    samples = samples_of([{"q": place} for place in range(rows)])
    assert halves(samples, seed) == before(samples, seed)


@given(groups=GROUPS, seed=st.integers(0, 2**40), order=st.randoms())
def test_equal_rows_are_in_one_half_and_the_halves_as_even_as_can_be(groups: list[int], seed: int, order: Any) -> None:
    rows = [{"q": group} for group, size in enumerate(groups) for _ in range(size)]
    order.shuffle(rows)
    samples = samples_of(rows)
    divided = halves(samples, seed)
    search, heldout = divided["search"], divided["heldout"]
    assert not {sample.row["q"] for sample in search} & {sample.row["q"] for sample in heldout}
    assert sorted(sample.id for sample in [*search, *heldout]) == sorted(sample.id for sample in samples)
    sums = [sum(chosen) for count in range(len(groups)) for chosen in combinations(groups, count)]
    assert len(search) - len(heldout) == min(abs(len(rows) - 2 * total) for total in sums)
    assert halves(samples, seed) == divided


def test_a_file_of_pairs_does_not_leak(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "pairs.jsonl", *({"q": place // 2} for place in range(100)))
    divided = read_splits(SplitRowsConfig(rows=RowsConfig(path=str(path))))
    sides = [{sample.row["q"] for sample in divided[split]} for split in ("search", "heldout")]
    assert [len(divided[split]) for split in ("search", "heldout")] == [50, 50]
    assert not sides[0] & sides[1]
    assert sum(sample.id.endswith("-2") for sample in divided["search"]) == 25  # ids stay


def test_a_file_of_one_row_over_and_over_cannot_be_divided(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", *[{"q": 1}] * 6)
    with pytest.raises(DataError) as raised:
        read_splits(SplitRowsConfig(rows=RowsConfig(path=str(path))))
    assert str(raised.value) == (
        f"{path}: its 6 rows are all equal; they cannot be divided into search and held-out rows"
    )


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
    divided = read_splits(TwoFilesConfig(search=search, heldout=heldout))
    assert {split: [sample.row["q"] for sample in samples] for split, samples in divided.items()} == {
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
