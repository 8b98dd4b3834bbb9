"""The paper's recipe: what it states, and that `plan` passes it with local stand-ins for weights and data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from cycleqd_merge.journal.search import operators
from cycleqd_merge.recipe.loading import DEFINITIONS, load_recipe
from cycleqd_merge.recipe.schema import Recipe
from cycleqd_merge.recipe.task_file import GenerateTask
from tests.cli.conftest import cycleqd_merge
from tests.models import edit_json, make_base, make_expert, make_rows
from tests.tasks.agentbench import ROWS
from tests.tasks.scripted import write_rows

RECIPE = Path(__file__).parents[2] / "recipes" / "llama3-8b-cycleqd.yaml"


def test_its_search_is_what_a_recipe_has_by_default_but_one_child_at_a_time() -> None:
    recipe = load_recipe(RECIPE)
    plain = Recipe.model_validate(
        {"base": "b", "experts": {"x": "x", "y": "y"}, "output": "o", "tasks": [{"task": "a"}, {"task": "b"}]}
    )
    assert recipe.evolution.model_copy(update={"preset": None}) == plain.evolution
    assert operators(recipe.evolution) == operators(plain.evolution)
    assert recipe.evolution.flights(workers=1) == 1
    assert [use.name for use in recipe.tasks] == list(recipe.experts)
    assert [use.expert for use in recipe.tasks] == list(recipe.experts)
    assert all((DEFINITIONS / f"{use.task}.yaml").is_file() for use in recipe.tasks)


def shipped(name: str, rows: Path) -> dict[str, Any]:
    """A shipped definition on other rows."""
    definition: dict[str, Any] = YAML(typ="safe", pure=True).load(DEFINITIONS / f"{name}.yaml")
    return {**definition, "data": {"rows": {"path": str(rows)}}}


def test_plan_passes_it_with_stand_ins(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    edit_json(base / "config.json", max_position_embeddings=8192)
    experts = {name: str(make_expert(base, tmp_path / name, seed)) for seed, name in enumerate(("coding", "db", "os"))}
    simple = GenerateTask.model_validate(
        {
            "kind": "generate",
            "data": {"rows": {"path": str(make_rows(tmp_path / "rows.jsonl", 40, "ab", 0))}},
            "prompt": "{{ question }}",
            "scorer": {"kind": "exact"},
        }
    ).model_dump(mode="json", exclude_unset=True)
    settings = {
        "base": str(base),
        "experts": experts,
        "tasks.0.task": simple,
        "tasks.1.task": shipped("agentbench-db", write_rows(tmp_path / "db.jsonl", *ROWS)),
        "tasks.2.task": simple,
        "engine": {"kind": "transformers"},
        "output": str(tmp_path / "run"),
    }
    overrides = [part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    answer = cycleqd_merge("plan", RECIPE, "--no-measure", "--json", *overrides)
    assert (answer.code, answer.err) == (0, "")
    assert answer.json["faults"] == []
    tasks = {task["name"]: task for task in answer.json["tasks"]}
    assert "MariaDB" in tasks["db"]["surroundings"]
    assert [(task["search"], task["heldout"]) for task in tasks.values()] == [(20, 20), (2, 2), (20, 20)]
