"""The tasks of a recipe, opened: their order, and which rows each is scored on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cycleqd_merge.config.anchoring import anchored
from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.errors import UserError
from cycleqd_merge.tasks.suite import Suite, open_suite
from tests.tasks.scripted import write_rows

DEFINITION = {"kind": "generate", "prompt": "{{ q }}", "scorer": {"kind": "exact"}}


def use(folder: Path, name: str, rows: int = 20, **keys: Any) -> dict[str, Any]:
    """A recipe's inline task over so many rows, split evenly."""
    write_rows(folder / f"{name}.jsonl", *({"q": f"{name} {row}", "answer": "x"} for row in range(rows)))
    return {"name": name, "task": {**DEFINITION, "data": {"rows": {"path": f"{name}.jsonl"}}}, **keys}


def suite_of(folder: Path, *uses: dict[str, Any], **keys: Any) -> Suite:
    stated = {"base": "b", "experts": {"x": "x", "y": "y"}, "output": "o", "tasks": list(uses), **keys}
    return open_suite(anchored(Recipe.model_validate(stated), folder))


def test_objectives_come_first_in_the_recipes_order(tmp_path: Path) -> None:
    suite = suite_of(
        tmp_path,
        use(tmp_path, "kept", role="keep"),
        use(tmp_path, "z"),
        use(tmp_path, "floored", role="keep", floor=0.1),
        use(tmp_path, "a"),
    )
    assert [task.name for task in suite] == ["z", "a", "kept", "floored"]


def test_the_limit_on_samples_is_for_the_search_alone(tmp_path: Path) -> None:
    limited, free = suite_of(tmp_path, use(tmp_path, "a", samples=3), use(tmp_path, "b"), confirm={"share": 0})
    assert len(limited.samples("search")) == 3
    assert len(limited.samples("heldout")) == 10
    assert len(free.samples("search")) == 10
    assert limited.samples("search") == limited.task.samples("search")[:3]


def test_rows_set_aside_to_confirm_are_neither_searched_nor_held_out(tmp_path: Path) -> None:
    task, _ = suite_of(tmp_path, use(tmp_path, "a"), use(tmp_path, "b"), confirm={"share": 0.3})
    ids = {rows: [sample.id for sample in task.samples(rows)] for rows in ("search", "confirm", "heldout")}
    assert {rows: len(names) for rows, names in ids.items()} == {"search": 7, "confirm": 3, "heldout": 10}
    assert len({name for names in ids.values() for name in names}) == 20
    assert set(ids["search"]) | set(ids["confirm"]) == {sample.id for sample in task.task.samples("search")}


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_at_least_one_row_is_left_to_search(tmp_path: Path, share: float) -> None:
    task, _ = suite_of(tmp_path, use(tmp_path, "a", rows=2), use(tmp_path, "b"), confirm={"share": share})
    assert len(task.samples("search")) == 1


def test_digests_follow_the_rows_that_count(tmp_path: Path) -> None:
    full, _ = suite_of(tmp_path, use(tmp_path, "a"), use(tmp_path, "b"))
    again, _ = suite_of(tmp_path, use(tmp_path, "a"), use(tmp_path, "b"))
    fewer, _ = suite_of(tmp_path, use(tmp_path, "a", samples=2), use(tmp_path, "b"))
    assert full.digest("search") == again.digest("search")
    assert full.digest("search") != full.digest("heldout")
    assert fewer.digest("search") != full.digest("search")
    assert fewer.digest("heldout") == full.digest("heldout")


def test_a_task_that_cannot_be_opened_is_told_by_its_name(tmp_path: Path) -> None:
    broken = use(tmp_path, "b")
    (tmp_path / "b.jsonl").unlink()
    with pytest.raises(UserError) as raised:
        suite_of(tmp_path, use(tmp_path, "a"), broken)
    assert str(raised.value) == f"task b: {tmp_path / 'b.jsonl'}: no such file"


def test_a_python_task_without_samples_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "class Mine:\n    def samples(self, split):\n        return [] if split == 'heldout' else [1]\n"
        "    async def score(self, sample, model): ...\n"
    )
    mine = {"name": "mine", "task": {"kind": "python", "target": "mine.py:Mine"}}
    with pytest.raises(UserError, match=r"^task mine: its heldout split holds no sample$"):
        suite_of(tmp_path, use(tmp_path, "a"), mine)


def test_paths_in_a_task_file_start_at_that_file(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    write_rows(tmp_path / "tasks" / "rows.jsonl", *({"q": str(row), "answer": "x"} for row in range(4)))
    (tmp_path / "tasks" / "mine.yaml").write_text(
        "kind: generate\nprompt: '{{ q }}'\nscorer: {kind: exact}\ndata: {rows: {path: rows.jsonl}}\n"
    )
    task, _ = suite_of(tmp_path, {"task": "tasks/mine.yaml"}, use(tmp_path, "b"))
    assert task.name == "mine"
    assert len(task.samples("heldout")) == 2
