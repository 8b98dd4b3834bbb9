"""The pages on databases and lm-evaluation-harness: their tables list every key, and their examples work."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from pydantic import BaseModel, TypeAdapter
from ruamel.yaml import YAML

from cycleqd_merge.config.loading import load_task
from cycleqd_merge.config.recipe import TaskConfig
from cycleqd_merge.config.tasks import DbbenchTaskConfig, LmEvalTaskConfig
from cycleqd_merge.tasks.database.server import URL_VARIABLE
from cycleqd_merge.tasks.suite import open_task

DOCS = Path(__file__).parents[2] / "docs"
PAGES: dict[str, type[BaseModel]] = {"tasks-database.md": DbbenchTaskConfig, "tasks-lm-eval.md": LmEvalTaskConfig}


def examples(page: str) -> list[str]:
    return re.findall(r"```yaml\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_the_table_lists_every_key_and_default(page: str) -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| ([^|]+) \|$", (DOCS / page).read_text(encoding="utf-8"), re.M))
    fields = PAGES[page].model_fields
    assert rows.keys() == fields.keys()
    for key, default in rows.items():
        stated = fields[key].get_default(call_default_factory=True)
        if isinstance(stated, bool | int | float | str) and not fields[key].is_required() and stated != "":
            assert default.strip("`") == (
                str(stated).lower()
                if isinstance(stated, bool)
                else f"{stated:g}"
                if isinstance(stated, float)
                else str(stated)
            ), key


@pytest.mark.parametrize("page", PAGES)
def test_tasks_in_recipe_examples_are_valid(page: str) -> None:
    uses = YAML(typ="safe", pure=True).load(next(text for text in examples(page) if text.startswith("tasks:")))
    for use in TypeAdapter(list[TaskConfig]).validate_python(uses["tasks"]):
        assert isinstance(load_task(use), PAGES[page])


def test_the_example_with_other_data_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"question": "?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"}
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps({**row, "id": n}) + "\n" for n in range(6)))
    monkeypatch.setenv("ARC", str(tmp_path))
    (tmp_path / "arc.yaml").write_text(next(text for text in examples("tasks-lm-eval.md") if "arc_easy" in text))
    task = open_task(TaskConfig(task=str(tmp_path / "arc.yaml")), 0.0)
    assert [len(task.samples("search")), len(task.samples("heldout"))] == [3, 3]


def test_the_environment_variable_is_documented() -> None:
    assert f"export {URL_VARIABLE}=mysql://" in (DOCS / "tasks-database.md").read_text()
