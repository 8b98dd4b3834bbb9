"""Results to JSON and back, results of an older version, and rejected ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cycleqd_merge.comparison.compare import row_counts
from cycleqd_merge.comparison.results import RowCount, result_from_json, result_to_json
from cycleqd_merge.config.recipe import TaskConfig
from cycleqd_merge.errors import UserError
from cycleqd_merge.tasks.suite import open_task
from tests.comparison.examples import ROWS, TASKS, example, fixed
from tests.tasks.scripted import write_rows


def test_a_result_comes_back_equal_through_json() -> None:
    result = example()
    record = json.loads(json.dumps(result_to_json(result), allow_nan=False))
    assert result_from_json(record, "comparison.json") == result


def test_another_format_or_damage_is_refused_with_the_place() -> None:
    record = result_to_json(example())
    with pytest.raises(UserError, match=r"c\.json: format 7 of a comparison"):
        result_from_json(record | {"format": 7}, "c.json")
    record["searches"][1]["seconds"] = "long"
    with pytest.raises(UserError, match=r"c\.json: searches\.1\.seconds: .*number"):
        result_from_json(record, "c.json")


def test_a_result_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="reference 'ours' must be one of"):
        example(reference="ours")
    twice = (fixed("base", "base", 1, 1), fixed("base", "base", 1, 1))
    with pytest.raises(ValueError, match="must differ"):
        example(reference="base", models=twice)
    with pytest.raises(ValueError, match=f"{ROWS} of {ROWS + 1} held-out rows of sql"):
        example(rows=dict.fromkeys(TASKS, RowCount(100, ROWS + 1, 0)))
    with pytest.raises(ValueError, match="0 of 40 held-out rows of code"):
        example(kept=("code",), rows=dict.fromkeys((*TASKS, "code"), RowCount(100, ROWS, 0)))


def test_rows_are_averaged_over_seeds() -> None:
    rows = example().by_name["cma-es best-mean"].heldout("sql")
    assert rows.tolist() == [1.0] * 20 + [0.5] * 2 + [0.0] * 18


def test_rows_that_are_not_held_out_are_counted_by_the_definition_of_equal_rows(tmp_path: Path) -> None:
    search = write_rows(tmp_path / "search.jsonl", {"q": "a", "answer": "1"}, {"q": "b", "answer": "2"})
    rows = [{"q": " a ", "answer": "1", "id": 7}, {"q": "a", "answer": "2"}, {"q": "b", "answer": 2}]
    heldout = write_rows(tmp_path / "heldout.jsonl", *rows)
    stated = {
        "kind": "generate",
        "data": {"search": {"path": str(search)}, "heldout": {"path": str(heldout)}},
        "prompt": "{{ q }}",
        "scorer": {"kind": "exact"},
    }
    task = open_task(TaskConfig.model_validate({"task": stated, "name": "t"}), 0.0)
    assert row_counts((task,), "heldout") == {"t": RowCount(2, 3, 2)}
