"""The JSON Schema for editors agrees with what loading accepts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import jsonschema
import pytest
from ruamel.yaml import YAML

from cycleqd_merge.config.recipe import json_schema
from tests.config.texts import INLINE, NAMED, load, replaced

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").glob("**/*.yaml"))
TASKS = sorted((ROOT / "tasks").glob("*.yaml"))


def validator(of: Literal["recipe", "task"]) -> jsonschema.Draft202012Validator:
    schema = json_schema(of)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def values(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_are_valid(path: Path) -> None:
    validator("recipe").validate(values(path.read_text()))


@pytest.mark.parametrize("path", TASKS, ids=lambda path: path.stem)
def test_shipped_tasks_are_valid(path: Path) -> None:
    validator("task").validate(values(path.read_text()))


def test_there_is_something_shipped() -> None:
    assert RECIPES
    assert TASKS


@pytest.mark.parametrize(
    "text",
    [
        NAMED,
        INLINE,
        f"{NAMED}evolution: {{mutation: {{w_max: 0.1}}, groups: {{layers: 2}}}}\n",
        f"{NAMED}strategies: {{mine: {{strategy: {{kind: random}}}}}}\n",
        f"{NAMED}searches: {{mine: {{strategy: {{kind: random}}}}}}\n",  # deprecated
        f"{NAMED}evolution: {{mutation: {{kind: none}}, groups: {{patterns: [mlp]}}}}\n",
        replaced(INLINE, "kind: exact\n        lowercase: true", "kind: multiple_choice\n        choices: options"),
        replaced(INLINE, "kind: exact\n        lowercase: true", "kind: multiple_choice\n        choices: [a, b]"),
    ],
)
def test_what_loads_is_valid(tmp_path: Path, text: str) -> None:
    load(tmp_path, text)
    validator("recipe").validate(values(text))


@pytest.mark.parametrize(
    "text",
    [
        replaced(NAMED, "output", "outptu"),
        f"{NAMED}evolution: {{bins: 0}}\n",
        f"{NAMED}evolution: {{mutation: {{kind: svdd}}}}\n",
        f"{NAMED}evolution: {{groups: two}}\n",
        replaced(NAMED, "name: code", "name: my code"),
        replaced(INLINE, "lowercase", "lowercas"),
        replaced(INLINE, "rows:", "row:"),
        replaced(NAMED, "  code: org/code\n", ""),
    ],
)
def test_what_does_not_load_is_not_valid(text: str) -> None:
    assert list(validator("recipe").iter_errors(values(text)))
