"""The examples of docs/tasks-sandboxed.md run unchanged, and its tables list every key."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from cycleqd_merge.config.recipe import TaskConfig
from cycleqd_merge.config.tasks import CodeTaskConfig, OsInteractionTaskConfig, PromptedTaskConfig
from cycleqd_merge.sandbox.protocol import RootFs
from cycleqd_merge.tasks.check import check
from cycleqd_merge.tasks.suite import open_task

PAGE = (Path(__file__).parents[2] / "docs" / "tasks-sandboxed.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("name", ["functions", "files"])
def test_an_example_accepts_right_answers_and_rejects_wrong_ones(tmp_path: Path, own_root: RootFs, name: str) -> None:
    places = [place for place, (_, text) in enumerate(BLOCKS) if text.startswith(f"# {name}.yaml\n")]
    (tmp_path / f"{name}.yaml").write_text(BLOCKS[places[0]][1])
    (tmp_path / f"{name}.jsonl").write_text(BLOCKS[places[0] + 1][1])
    task = open_task(TaskConfig(task=str(tmp_path / f"{name}.yaml")), 0.0).task
    verdicts = asyncio.run(check(task, [*task.samples("search"), *task.samples("heldout")]))
    assert sum(verdict.answer == "gold" for verdict in verdicts) == 2
    assert [verdict for verdict in verdicts if not verdict.passed] == []


@pytest.mark.parametrize(
    ("section", "model"), [("## Kind `code`", CodeTaskConfig), ("## Kind `os_interaction`", OsInteractionTaskConfig)]
)
def test_the_table_lists_every_key(section: str, model: type[BaseModel]) -> None:
    table = PAGE.partition(f"{section}\n")[2].partition("| key | meaning | default |")[2].partition("\n\n")[0]
    named = set(re.findall(r"^\| `(\w+)` \|", table, re.M))
    assert named | set(PromptedTaskConfig.model_fields) == set(model.model_fields)
    assert named - set(PromptedTaskConfig.model_fields) == set(model.model_fields) - set(
        PromptedTaskConfig.model_fields
    )
    for key in re.findall(r"^\| `(\w+)` \|.*\| `?([\w.]+)`? \|$", table, re.M):
        default = model.model_fields[key[0]].default
        if isinstance(default, int | float | str) and key[0] != "kind" and key[1] not in ("none", "required"):
            assert str(default) in (key[1], f"{key[1]}.0"), key
