"""The paper's recipe: what it states, and that `plan` passes it with local stand-ins for weights and data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cycleqd_merge.config.loading import DEFINITIONS, load_recipe
from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.strategies.factory import build_operators
from tests.cli.conftest import cycleqd_merge
from tests.models import edit_json, make_base, make_expert
from tests.tasks.agentbench import ROWS
from tests.tasks.code.test_task import DOUBLE
from tests.tasks.os_interaction.test_task import COUNT, MAKE
from tests.tasks.scripted import shipped, write_rows

RECIPE = Path(__file__).parents[2] / "recipes" / "llama3-8b-cycleqd.yaml"


def test_its_search_is_what_a_recipe_has_by_default_but_one_child_at_a_time() -> None:
    recipe = load_recipe(RECIPE)
    plain = Recipe.model_validate(
        {"base": "b", "experts": {"x": "x", "y": "y"}, "output": "o", "tasks": [{"task": "a"}, {"task": "b"}]}
    )
    assert recipe.evolution.model_copy(update={"preset": None}) == plain.evolution
    assert build_operators(recipe.evolution) == build_operators(plain.evolution)
    assert recipe.evolution.children_in_flight(workers=1) == 1
    assert [use.name for use in recipe.tasks] == list(recipe.experts)
    assert [use.expert for use in recipe.tasks] == list(recipe.experts)
    assert all((DEFINITIONS / f"{use.task}.yaml").is_file() for use in recipe.tasks)


@pytest.mark.needs("mariadb")
@pytest.mark.usefixtures("own_root")
def test_plan_passes_it_with_stand_ins(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    edit_json(base / "config.json", max_position_embeddings=8192)
    experts = {name: str(make_expert(base, tmp_path / name, seed)) for seed, name in enumerate(("coding", "db", "os"))}
    settings = {
        "base": str(base),
        "experts": experts,
        "tasks.0.task": shipped(
            "mbpp-plus", write_rows(tmp_path / "coding.jsonl", DOUBLE, {**DOUBLE, "task_id": "Mbpp/2"})
        ),
        "tasks.1.task": shipped("agentbench-db", write_rows(tmp_path / "db.jsonl", *ROWS)),
        "tasks.2.task": shipped("agentbench-os", write_rows(tmp_path / "os.jsonl", COUNT, MAKE)),
        "engine": {"kind": "transformers"},
        "output": str(tmp_path / "run"),
    }
    overrides = [part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    answer = cycleqd_merge("plan", RECIPE, "--no-measure", "--json", *overrides)
    assert (answer.code, answer.err) == (0, "")
    assert answer.json["errors"] == []
    tasks = {task["name"]: task for task in answer.json["tasks"]}
    for name, works_on in (("coding", "with numpy"), ("db", "MariaDB"), ("os", "root default")):
        assert works_on in tasks[name]["environment"]
    assert [(task["search"], task["heldout"]) for task in tasks.values()] == [(1, 1), (2, 2), (1, 1)]
