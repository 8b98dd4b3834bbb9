"""Notices about rows that are valid, but may not be what is meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cycleqd_merge.config.recipe import TaskConfig
from cycleqd_merge.preflight.rows import check_rows
from cycleqd_merge.tasks.suite import SuiteTask, open_task
from tests.tasks.scripted import write_rows


def opened(folder: Path, rows: list[dict[str, Any]], **keys: Any) -> SuiteTask:
    """A task with these search rows, 20 more, and other held-out rows."""
    more = [{"q": f"more {place}", "answer": "a", "choices": ["a", "b"]} for place in range(30)]
    write_rows(folder / "search.jsonl", *rows, *more[:20])
    write_rows(folder / "heldout.jsonl", *more[20:])
    data = {split: {"path": str(folder / f"{split}.jsonl")} for split in ("search", "heldout")}
    stated = {"kind": "generate", "data": data, "prompt": "{{ q }}", "scorer": {"kind": "exact"}, **keys}
    return open_task(TaskConfig.model_validate({"name": "t", "task": stated}), 0.0)


@pytest.mark.parametrize(
    ("row", "scorer", "notice"),
    [
        ({"answer": "a"}, {"kind": "exact"}, None),
        ({"answer": ""}, {"kind": "exact"}, "references are empty: an empty answer scores 1"),
        ({"answer": " "}, {"kind": "token_f1"}, "references are empty: an empty answer scores 1"),
        (
            {"answer": 1.0},
            {"kind": "exact"},
            "references are numbers or booleans as Python writes them (`1.0`, `True`)",
        ),
        (
            {"answer": True},
            {"kind": "exact"},
            "references are numbers or booleans as Python writes them (`1.0`, `True`)",
        ),
        ({"answer": 1}, {"kind": "exact"}, None),
        ({"answer": "nan"}, {"kind": "exact"}, "references are marks of a missing value or an error"),
        ({"answer": "#N/A"}, {"kind": "token_f1"}, "references are marks of a missing value or an error"),
        ({"answer": "#DIV/0!"}, {"kind": "number"}, "references are marks of a missing value or an error"),
        ({"answer": "None of them"}, {"kind": "exact"}, None),
        ({"answer": 1.0}, {"kind": "number"}, None),
        ({"answer": "1.0"}, {"kind": "exact"}, None),
        ({"answer": "x\ny"}, {"kind": "token_f1"}, None),
        (
            {"answer": "x\ny"},
            {"kind": "token_f1", "first_line": True},
            "references have several lines, of which `first_line` lets an answer match one",
        ),
        ({"answer": "^$"}, {"kind": "regex"}, "references match an empty answer, which scores 1"),
        ({"answer": "(yes)?"}, {"kind": "regex", "full": True}, "references match an empty answer, which scores 1"),
        (
            {"answer": "a", "choices": ["a", "b", " a"]},
            {"kind": "multiple_choice", "choices": "choices"},
            "rows have equal choices, which share one score",
        ),
    ],
)
def test_a_row_that_may_not_be_meant_is_noticed(
    tmp_path: Path, row: dict[str, Any], scorer: dict[str, Any], notice: str | None
) -> None:
    answer = "{{ answer }}"
    if scorer["kind"] == "number":
        answer = "{{ 5 if answer == 'a' else answer }}"
    found = check_rows(opened(tmp_path, [{"q": "odd", **row}], scorer=scorer, answer=answer))
    expected = [] if notice is None else [f"task t: 1 of 31 {notice}, such as {tmp_path}/search.jsonl:1"]
    assert found == expected


def test_repeated_rows_are_counted_with_their_place(tmp_path: Path) -> None:
    odd = {"q": "odd", "answer": "a"}
    (found,) = check_rows(opened(tmp_path, [odd, {**odd, "id": 1}, {"q": " odd\n", "answer": "a"}]))
    assert found == f"task t: 2 of 23 search rows are duplicates, such as {tmp_path}/search.jsonl:2"
