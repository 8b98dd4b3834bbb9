"""Datasets: the errors of `datasets` in one line that names the cause, from datasets in local folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from cycleqd_merge.config.rows import RowsConfig
from cycleqd_merge.errors import DataError
from cycleqd_merge.tasks.rows import read_rows

ROWS = '{"q": "a", "answer": "1"}\n' * 3
CONFIGS = (
    "---\nconfigs:\n- config_name: main\n  data_files: a.jsonl\n- config_name: other\n  data_files: a.jsonl\n---\n"
)
PNG = (
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\0\0\0\0:~\x9bU\0\0\0\nIDATx\x9cc`\0\0\0\2\0\1H\xaf\xa4q\0\0\0\0IEND"
    b"\xaeB`\x82"
)


@pytest.fixture(autouse=True)
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def dataset(folder: Path, files: dict[str, str]) -> Path:
    (folder / "data").mkdir()
    for name, text in files.items():
        (folder / "data" / name).write_text(text)
    return folder / "data"


@pytest.mark.parametrize(
    ("files", "keys", "problem"),
    [
        ({"data.py": "import datasets\n"}, {}, "a script (data.py), which `datasets` no longer runs; on the Hub, try "),
        (
            {"a.jsonl": ROWS, "b.jsonl": '{"q": "a", "label": {"x": 1}}\n'},
            {},
            "cannot be read: its files have different columns: not all have label; name one file by `path`",
        ),
        ({"a.jsonl": ROWS + '{"q": \n'}, {}, "cannot be read: FOLDER/a.jsonl: JSON parse error: "),
        ({"a.csv": "q,answer\n1,2\n1,2,3\n"}, {}, "cannot be read: FOLDER/a.csv: Error tokenizing data. "),
        ({"a.parquet": "PAR1"}, {}, "cannot be read: FOLDER/a.parquet: Parquet file size is 4 bytes"),
        (
            {"a.jsonl": ROWS, "README.md": CONFIGS},
            {},
            "cannot be read: it has several configurations; set `config` to one of 'main', 'other'",
        ),
        (
            {"a.jsonl": ROWS, "README.md": CONFIGS},
            {"config": "none"},
            "cannot be read: BuilderConfig 'none' not found. Available: ['main', 'other']",
        ),
        ({"a.jsonl": ROWS}, {"split": "test"}, """cannot be read: Unknown split "test". Should be one of ['train']."""),
        ({"a.jsonl": ""}, {}, "cannot be read: its first file is empty"),
        ({}, {}, "cannot be read: The directory at FOLDER doesn't contain any data files"),
    ],
)
def test_an_error_names_its_cause(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], files: dict[str, str], keys: dict[str, Any], problem: str
) -> None:
    folder = dataset(tmp_path, files)
    with pytest.raises(DataError) as raised:
        read_rows(RowsConfig(dataset=str(folder), **keys))
    message = str(raised.value)
    assert message.startswith(f"dataset {folder}: {problem.replace('FOLDER', str(folder))}")
    assert "\n" not in message
    assert "Failed to" not in capsys.readouterr().err


def test_missing_columns_are_null_and_every_row_has_a_number(tmp_path: Path) -> None:
    folder = dataset(tmp_path, {"a.jsonl": '{"q": "a", "answer": "1"}\n{"q": "b"}\n'})
    rows = read_rows(RowsConfig(dataset=str(folder), only=[1]))
    assert rows == [{"q": "b", "answer": None}]
    assert rows[0].place == f"dataset {folder}: row 2"


def test_values_of_different_types_are_as_in_the_file(tmp_path: Path) -> None:
    rows = [
        {"q": "a", "answer": 1, "o": {"x": [1]}, "l": [{"a": 1}], "n": 1.5},
        {"q": "b", "answer": "x", "o": {"y": "z"}, "l": [{"b": "2"}], "n": None},
        {"q": "c", "answer": ["x"], "o": None, "l": [], "n": 2.5},
    ]
    folder = dataset(tmp_path, {"a.jsonl": "".join(json.dumps(row) + "\n" for row in rows)})
    assert read_rows(RowsConfig(dataset=str(folder))) == rows


def test_images_stay_bytes(tmp_path: Path) -> None:
    """A decoded image has no text that is the same in every process, so ids would change."""
    (tmp_path / "data").mkdir()
    table = pyarrow.Table.from_pylist([{"image": {"bytes": PNG, "path": "a.png"}, "q": "a"}])
    features = {"info": {"features": {"image": {"_type": "Image"}, "q": {"dtype": "string", "_type": "Value"}}}}
    table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    pyarrow.parquet.write_table(table, tmp_path / "data" / "train.parquet")
    (row,) = read_rows(RowsConfig(dataset=str(tmp_path / "data")))
    assert row == {"image": {"bytes": PNG, "path": "a.png"}, "q": "a"}
