"""Task kind `python`: the user's class is found, instantiated and checked before a model is used."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cycleqd_merge.errors import UserError
from cycleqd_merge.tasks.protocol import Task
from cycleqd_merge.tasks.python import load_python_task
from tests.tasks.scripted import defined

CLASS = """
from __future__ import annotations
from dataclasses import dataclass
from cycleqd_merge.tasks.protocol import Outcome, Sample

@dataclass
class Mine:
    rows: int = 2

    def samples(self, split):
        return [Sample(f"{split}-{row}", {}) for row in range(self.rows)]

    async def score(self, sample, model):
        return Outcome(1.0)

class Unfinished:
    def samples(self, split):
        return []

class Picky:
    def __init__(self, rows):
        raise ValueError(f"{rows} rows are too few")

nothing = 3
"""


def open_target(folder: Path, target: str, **options: object) -> Task:
    return load_python_task(defined(folder, {"kind": "python", "target": target, "options": options}))


def refusal(folder: Path, target: str, **options: object) -> str:
    with pytest.raises(UserError) as raised:
        open_target(folder, target, **options)
    return str(raised.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with `tasks/mine.py`."""
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "mine.py").write_text(CLASS)
    return tmp_path


def test_a_class_is_found_in_a_file_next_to_the_task(folder: Path) -> None:
    task = open_target(folder, "tasks/mine.py:Mine", rows=3)
    assert [sample.id for sample in task.samples("heldout")] == ["heldout-0", "heldout-1", "heldout-2"]


def test_a_class_is_found_on_the_python_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(folder)
    (folder / "cycleqd_test_module.py").write_text(CLASS)
    assert len(open_target(Path("/nowhere"), "cycleqd_test_module:Mine").samples("search")) == 2


def test_a_file_does_not_replace_a_module_of_the_same_name(folder: Path) -> None:
    import json

    (folder / "json.py").write_text(CLASS)
    open_target(folder, "json.py:Mine")
    assert sys.modules["json"] is json


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("tasks/none.py:Mine", "no such file"),
        ("no_such_module_anywhere:Mine", "No module named 'no_such_module_anywhere'; is it on PYTHONPATH?"),
        ("tasks/mine.py:Yours", "tasks/mine.py has no Yours"),
        ("tasks/mine.py:Unfinished", "it has no method 'score'"),
        ("tasks/mine.py:nothing", "'int' object is not callable"),
    ],
)
def test_what_is_missing_is_reported(folder: Path, target: str, problem: str) -> None:
    line = refusal(folder, target)
    assert line.startswith("target ")
    assert line.endswith(problem)


def test_options_that_the_class_rejects_are_reported(folder: Path) -> None:
    assert "unexpected keyword argument 'row'" in refusal(folder, "tasks/mine.py:Mine", row=3)
    assert refusal(folder, "tasks/mine.py:Picky", rows=1).endswith("1 rows are too few")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("class Mine(:\n", "SyntaxError"),
        ("import no_such_module\n", "no_such_module"),
        ("1 / 0\n", "ZeroDivisionError"),
    ],
)
def test_a_file_that_cannot_be_imported_is_reported(folder: Path, content: str, problem: str) -> None:
    (folder / "broken.py").write_text(content)
    assert problem in refusal(folder, "broken.py:Mine")
