"""Opening the tasks of a recipe: their order, their splits, and what they need besides a model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cycleqd_merge.config.anchoring import anchored
from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.errors import DataError, RecipeError, TaskError
from cycleqd_merge.evolution.draws import generator
from cycleqd_merge.tasks.protocol import SPLIT_NAMES
from cycleqd_merge.tasks.suite import Suite, open_suite, require_environments
from tests.tasks.scripted import write_rows

DEFINITION = {"kind": "generate", "prompt": "{{ q }}", "scorer": {"kind": "exact"}}


def use(folder: Path, name: str, rows: int = 20, **keys: Any) -> dict[str, Any]:
    """A recipe's inline task over a file of `rows` rows, divided into halves."""
    write_rows(folder / f"{name}.jsonl", *({"q": f"{name} {row}", "answer": "x"} for row in range(rows)))
    return {"name": name, "task": {**DEFINITION, "data": {"rows": {"path": f"{name}.jsonl"}}}, **keys}


def suite_of(folder: Path, *uses: dict[str, Any], **keys: Any) -> Suite:
    stated = {"base": "b", "experts": {"x": "x", "y": "y"}, "output": "o", "tasks": list(uses), **keys}
    return open_suite(anchored(Recipe.model_validate(stated), folder))


def test_optimised_tasks_come_first_in_the_recipes_order(tmp_path: Path) -> None:
    suite = suite_of(
        tmp_path,
        use(tmp_path, "kept", role="keep"),
        use(tmp_path, "z"),
        use(tmp_path, "floored", role="keep", floor=0.1),
        use(tmp_path, "a"),
    )
    assert [task.name for task in suite] == ["z", "a", "kept", "floored"]


def test_the_limit_on_samples_applies_to_the_search_split_only(tmp_path: Path) -> None:
    limited, free = suite_of(tmp_path, use(tmp_path, "a", samples=3), use(tmp_path, "b"), confirm={"share": 0})
    assert len(limited.samples("search")) == 3
    assert len(limited.samples("heldout")) == 10
    assert len(free.samples("search")) == 10
    assert limited.samples("search") == limited.task.samples("search")[:3]


def test_the_three_splits_are_disjoint(tmp_path: Path) -> None:
    task, _ = suite_of(tmp_path, use(tmp_path, "a"), use(tmp_path, "b"), confirm={"share": 0.3})
    ids = {split: [sample.id for sample in task.samples(split)] for split in ("search", "confirm", "heldout")}
    assert {split: len(names) for split, names in ids.items()} == {"search": 7, "confirm": 3, "heldout": 10}
    assert len({name for names in ids.values() for name in names}) == 20
    assert set(ids["search"]) | set(ids["confirm"]) == {sample.id for sample in task.task.samples("search")}


@pytest.mark.parametrize(("copies", "share", "confirmed"), [(1, 0.2, 5), (2, 0.2, 4), (3, 0.3, 6), (8, 0.2, 0)])
def test_equal_rows_are_not_in_two_splits(tmp_path: Path, copies: int, share: float, confirmed: int) -> None:
    stated = use(tmp_path, "a")
    write_rows(tmp_path / "a.jsonl", *({"q": place // copies, "answer": "x", "id": place} for place in range(48)))
    task, _ = suite_of(tmp_path, stated, use(tmp_path, "b"), confirm={"share": share})
    rows = {split: {sample.row["q"] for sample in task.samples(split)} for split in SPLIT_NAMES}
    assert sum(map(len, rows.values())) == 48 / copies
    assert len(task.samples("confirm")) == confirmed
    assert len(task.samples("heldout")) == 24


@pytest.mark.parametrize("rows", [2, 3, 10, 41])
def test_without_equal_rows_the_confirmation_split_is_what_it_always_was(tmp_path: Path, rows: int) -> None:
    task, _ = suite_of(tmp_path, use(tmp_path, "a", rows=rows), use(tmp_path, "b"), confirm={"share": 0.3})
    samples = task.task.samples("search")
    order = generator(0, "confirm").permutation(len(samples))
    reserved = set(order[: min(round(0.3 * len(samples)), len(samples) - 1)].tolist())
    assert task.samples("confirm") == [sample for place, sample in enumerate(samples) if place in reserved]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_the_search_split_keeps_at_least_one_row(tmp_path: Path, share: float) -> None:
    task, _ = suite_of(tmp_path, use(tmp_path, "a", rows=2), use(tmp_path, "b"), confirm={"share": share})
    assert len(task.samples("search")) == 1


def test_digests_depend_on_the_rows_that_are_used(tmp_path: Path) -> None:
    full, _ = suite_of(tmp_path, use(tmp_path, "a"), use(tmp_path, "b"))
    again, _ = suite_of(tmp_path, use(tmp_path, "a"), use(tmp_path, "b"))
    fewer, _ = suite_of(tmp_path, use(tmp_path, "a", samples=2), use(tmp_path, "b"))
    assert full.digest("search") == again.digest("search")
    assert full.digest("search") != full.digest("heldout")
    assert fewer.digest("search") != full.digest("search")
    assert fewer.digest("heldout") == full.digest("heldout")


def test_an_error_names_the_task_that_cannot_be_opened(tmp_path: Path) -> None:
    broken = use(tmp_path, "b")
    (tmp_path / "b.jsonl").unlink()
    with pytest.raises(DataError) as raised:
        suite_of(tmp_path, use(tmp_path, "a"), broken)
    assert str(raised.value) == f"task b: {tmp_path / 'b.jsonl'}: no such file"


def test_a_python_task_without_samples_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "class Mine:\n    def samples(self, split):\n        return [] if split == 'heldout' else [1]\n"
        "    async def score(self, sample, model): ...\n"
    )
    mine = {"name": "mine", "task": {"kind": "python", "target": "mine.py:Mine"}}
    with pytest.raises(TaskError, match=r"^task mine: its heldout split has no samples$"):
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


ENVIRONMENTS = """
from cycleqd_merge.plugins import TaskError

class Mine:
    def samples(self, split):
        return [1]
    async def score(self, sample, model): ...

class Needing(Mine):
    def environment(self):
        return "paper and pencil"

class Deprecated(Mine):
    def surroundings(self):
        return "an abacus"

class Lacking(Mine):
    def environment(self):
        raise TaskError("pencil: not installed")
"""


DEPRECATED = "^task Deprecated: `surroundings` is deprecated and will be removed in 0.3; use `environment`$"


def environments_of(folder: Path, *names: str) -> dict[str, str]:
    (folder / "mine.py").write_text(ENVIRONMENTS)
    uses = [{"name": name, "task": {"kind": "python", "target": f"mine.py:{name}"}} for name in names]
    return require_environments(suite_of(folder, *uses))


def test_environments_are_reported_by_task_under_the_deprecated_name_too(tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning, match=DEPRECATED):
        found = environments_of(tmp_path, "Mine", "Needing", "Deprecated")
    assert found == {"Needing": "paper and pencil", "Deprecated": "an abacus"}


def test_every_missing_environment_is_reported(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"^task Lacking: pencil: not installed$"):
        environments_of(tmp_path, "Needing", "Lacking")


def test_an_error_keeps_its_class(tmp_path: Path) -> None:
    broken = {"name": "c", "task": {**use(tmp_path, "c")["task"], "prompt": "{{ q"}}
    with pytest.raises(RecipeError, match=r"^task c: prompt: not a template: "):
        suite_of(tmp_path, use(tmp_path, "a"), broken)


def test_task_kinds_are_imported_when_they_are_opened() -> None:
    """The interface needs only the standard library, and opening a recipe's tasks only their own kinds."""
    heavy = "{'numpy', 'pydantic', 'jinja2', 'torch', 'transformers', 'pymysql'}"
    kinds = "{'cycleqd_merge.tasks.database.task', 'cycleqd_merge.tasks.code.task', 'jinja2', 'pymysql', 'torch'}"
    for module, forbidden in (("cycleqd_merge.tasks.protocol", heavy), ("cycleqd_merge.tasks.suite", kinds)):
        program = f"import sys, {module}; print(sorted({forbidden} & set(sys.modules)))"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout == "[]\n"
