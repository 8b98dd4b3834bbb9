"""Every path of a recipe and of its tasks starts at the file that names it; identities know files by their names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from cycleqd_merge.config.anchoring import anchored, anchored_task, without_folders
from cycleqd_merge.config.loading import load_recipe, load_task, override_recipe
from cycleqd_merge.config.recipe import Recipe, TaskConfig
from cycleqd_merge.config.tasks import TaskDefinitionConfig
from cycleqd_merge.errors import RecipeError

ROWS = {"search": {"path": "rows/a.jsonl"}, "heldout": {"path": "../b.jsonl"}}
PROMPT = {"prompt": "{{ question }}", "data": ROWS}
DEFINITIONS: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({"kind": "python", "target": "own/tasks.py:Mine"}, {"target": "@/own/tasks.py:Mine"}),
    ({"kind": "python", "target": "package.tasks:Mine"}, {"target": "package.tasks:Mine"}),
    (
        {"kind": "generate", **PROMPT, "scorer": {"kind": "python", "target": "own.py:score"}},
        {"scorer.target": "@/own.py:score", "data.search.path": "@/rows/a.jsonl", "data.heldout.path": "%/b.jsonl"},
    ),
    (
        {"kind": "code", "prompt": "{{ prompt }}", "data": {"rows": {"path": "a.jsonl"}}},
        {"data.rows.path": "@/a.jsonl"},
    ),
    (
        {"kind": "os_interaction", "prompt": "p", "chat": True, "data": ROWS, "scripts": "scripts"},
        {"scripts": "@/scripts", "data.search.path": "@/rows/a.jsonl"},
    ),
    ({"kind": "lm_eval", "task": "mine.yaml", "include": "more"}, {"task": "@/mine.yaml", "include": "@/more"}),
    ({"kind": "lm_eval", "task": "arc_easy"}, {"task": "arc_easy"}),
]


def value_at(value: Any, path: str) -> Any:
    for key in path.split("."):
        value = value[key]
    return value


@pytest.mark.parametrize(("stated", "wanted"), DEFINITIONS)
def test_paths_of_a_definition_start_at_its_folder(
    tmp_path: Path, stated: dict[str, Any], wanted: dict[str, str]
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "mine.yaml").touch()
    adapter: TypeAdapter[TaskDefinitionConfig] = TypeAdapter(TaskDefinitionConfig)
    definition = adapter.validate_python(stated)
    found = anchored_task(definition, folder)
    for path, text in wanted.items():
        expected = text.replace("@", str(folder)).replace("%", str(tmp_path))
        assert value_at(found.model_dump(mode="json"), path) == expected
    assert anchored_task(found, Path("/elsewhere")) == found  # what is absolute stays
    assert adapter.validate_python(found.model_dump(mode="json", exclude_unset=True)) == found


@pytest.mark.parametrize(("stated", "wanted"), DEFINITIONS)
def test_identities_know_files_by_name(tmp_path: Path, stated: dict[str, Any], wanted: dict[str, str]) -> None:
    """The same definition in two folders is the same task."""
    adapter: TypeAdapter[TaskDefinitionConfig] = TypeAdapter(TaskDefinitionConfig)
    definition = adapter.validate_python(stated)
    identities = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "mine.yaml").touch()
        dumped = anchored_task(definition, folder).model_dump(mode="json", exclude={"data"})
        identities.append(without_folders(dumped))
    assert identities[0] == identities[1] == without_folders(definition.model_dump(mode="json", exclude={"data"}))
    assert str(tmp_path) not in str(identities)


def test_models_that_exist_next_to_the_recipe_are_paths_and_others_are_hub_ids(tmp_path: Path) -> None:
    (tmp_path / "models" / "base").mkdir(parents=True)
    (tmp_path / "template.jinja").touch()
    recipe = Recipe.model_validate(
        {
            "base": "models/base@v1",
            "experts": {"one": "user/expert", "two": "models/base+user/adapter@abc"},
            "tasks": [{"task": "smollm2-sql"}, {"task": "smollm2-bash"}],
            "models": {"chat_template": "template.jinja"},
            "strategy": {"kind": "python", "target": "own.py:Grid"},
            "strategies": {"mine": {"strategy": {"kind": "python", "target": "own.py:Grid"}}, "plain": {}},
            "output": "run",
        }
    )
    found = anchored(recipe, tmp_path)
    assert found.base == f"{tmp_path}/models/base@v1"
    assert found.experts == {"one": "user/expert", "two": f"{tmp_path}/models/base+user/adapter@abc"}
    assert found.models.chat_template == f"{tmp_path}/template.jinja"
    assert found.strategy.model_dump()["target"] == f"{tmp_path}/own.py:Grid"
    assert found.strategies["mine"].strategy == found.strategy
    assert found.strategies["plain"].model_dump(exclude_unset=True) == {}  # nothing is stated that was not
    assert [use.task for use in found.tasks] == ["smollm2-sql", "smollm2-bash"]
    assert found.output == "run"


def test_a_recipe_is_the_same_from_any_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parents[2]
    recipe = load_recipe(root / "recipes" / "quickstart.yaml")
    rows = [load_task(use).model_dump() for use in recipe.tasks]
    monkeypatch.chdir(tmp_path)
    again = override_recipe(recipe, [], "recipe")
    assert again == recipe
    assert [load_task(use).model_dump() for use in again.tasks] == rows
    assert all(Path(each["data"]["search"]["path"]).is_file() for each in rows)


@pytest.mark.parametrize("named", ["mine.yaml", "mine.yml", "tasks/mine", "./mine"])
def test_a_task_file_that_a_recipe_s_folder_lacks_is_not_looked_for_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    for folder in ("there/tasks", "here"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "there" / named).write_text("kind: python\ntarget: a.py:A\n")
    (tmp_path / "here" / "recipe.yaml").write_text(
        f"base: b\nexperts: {{x: x, y: y}}\ntasks: [{{task: {named}}}, {{task: smollm2-sql}}]\noutput: run\n"
    )
    monkeypatch.chdir(tmp_path / "there")
    recipe = anchored(load_recipe(tmp_path / "here" / "recipe.yaml"), Path())
    missing = tmp_path / "here" / named
    with pytest.raises(
        RecipeError, match=f"^task '{re.escape(str(missing))}': no such file or shipped task; shipped: "
    ):
        load_task(recipe.tasks[0])


def test_a_shipped_task_written_as_a_file_is_suggested() -> None:
    with pytest.raises(RecipeError, match=r"did you mean 'smollm2-sql'\?$"):
        load_task(TaskConfig(task="/nowhere/smollm2-sql.yaml"))
