"""The examples of docs/tasks.md run unchanged, and its tables list every key."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from pydantic import BaseModel, TypeAdapter
from ruamel.yaml import YAML

from cycleqd_merge.config.anchoring import anchored
from cycleqd_merge.config.engines import TransformersEngineConfig
from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.config.rows import DataConfig, RowsConfig
from cycleqd_merge.config.scorers import ScorerConfig
from cycleqd_merge.config.tasks import GenerateTaskConfig, MessageConfig, PythonTaskConfig
from cycleqd_merge.evaluation.engines.transformers_engine import TransformersEngine
from cycleqd_merge.evaluation.worker import Worker
from cycleqd_merge.merging.groups import Groups
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.tasks.protocol import Outcome
from cycleqd_merge.tasks.suite import Suite, open_suite
from tests.models import make_base, make_recipe, open_recipe_family
from tests.tasks.scripted import Scripted

PAGE = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    """The page's two tasks, from files as shown on the page."""
    for language, text in BLOCKS:
        named = re.match(r"# (\S+\.(?:yaml|py))\n", text)
        if named or language == "jsonl":
            (tmp_path / (named.group(1) if named else "capitals.jsonl")).write_text(text, encoding="utf-8")
    tasks = [{"task": "capitals.yaml"}, {"task": "twice.yaml"}]
    stated = {"base": "b", "experts": {"x": "x", "y": "y"}, "output": "o", "tasks": tasks, "confirm": {"share": 0}}
    return open_suite(anchored(Recipe.model_validate(stated), tmp_path))


def scores(suite: Suite, model: Scripted) -> Mapping[str, list[float]]:
    async def score() -> dict[str, list[float]]:
        return {
            task.name: [(await task.task.score(sample, model)).score for sample in task.samples("search")]
            for task in suite
        }

    return asyncio.run(score())


def test_the_examples_run_on_a_real_model(suite: Suite, tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", dtype=torch.float32)
    family = open_recipe_family(make_recipe(tmp_path, base, {"first": base, "second": base}))
    materialiser = Materialiser(family, Groups(family.weights, "one"), {})
    worker = Worker(TransformersEngine(TransformersEngineConfig(device="cpu"), materialiser), suite)
    results = worker.evaluate(None, "heldout").results
    assert {name: len(result.outcomes) for name, result in results.items()} == {"capitals": 2, "twice": 2}
    assert all(isinstance(outcome, Outcome) and outcome.output for outcome in results["twice"].outcomes)
    assert results["twice"].truncated == 1.0  # a random model never ends an answer
    worker.close()


def test_the_examples_accept_right_answers_and_reject_wrong_ones(suite: Suite) -> None:
    capitals = {"France": "Paris", "Japan": "Tokyo", "Kenya": "Nairobi", "Peru": "Lima"}

    def right(messages: Any) -> str:
        question = messages[-1]["content"] if len(messages) < 3 else messages[0]["content"]
        capital = next((capital for country, capital in capitals.items() if country in question), None)
        return f"{capital}.\nOf course." if capital else question

    def right_once(messages: Any) -> str:
        return right(messages) if len(messages) < 3 else "no"

    assert scores(suite, Scripted(right)) == {"capitals": [1.0, 1.0], "twice": [1.0, 1.0]}
    assert scores(suite, Scripted(right_once)) == {"capitals": [1.0, 1.0], "twice": [0.5, 0.5]}
    assert scores(suite, Scripted(lambda messages: "no")) == {"capitals": [0.0, 0.0], "twice": [0.0, 0.0]}


def test_the_examples_of_data_are_valid() -> None:
    examples = [YAML(typ="safe", pure=True).load(text) for _, text in BLOCKS if text.startswith("data:")]
    assert len(examples) == 2
    for example in examples:
        TypeAdapter(DataConfig).validate_python(example["data"])


def documented(section: str) -> str:
    """The text of one section of the page."""
    return re.split(r"\n##+ ", PAGE.partition(f"{section}\n")[2])[0]


@pytest.mark.parametrize(
    ("section", "model"),
    [
        ("## Kind `generate`", GenerateTaskConfig),
        ("## Kind `generate`", MessageConfig),
        ("### Data", RowsConfig),
        ("## Kind `python`", PythonTaskConfig),
        *(("### Scorers", scorer) for scorer in get_args(get_args(ScorerConfig)[0])),
    ],
)
def test_every_key_is_documented(section: str, model: type[BaseModel]) -> None:
    missing = [key for key in model.model_fields if f"`{key}`" not in documented(section) and key != "kind"]
    assert missing == []


def test_every_scorer_is_documented_with_its_own_options() -> None:
    rows = {
        match.group(1): match.group(0) for match in re.finditer(r"^\| `(\w+)` \|.*$", documented("### Scorers"), re.M)
    }
    scorers = {
        get_args(scorer.model_fields["kind"].annotation)[0]: scorer for scorer in get_args(get_args(ScorerConfig)[0])
    }
    assert rows.keys() == scorers.keys()
    for kind, scorer in scorers.items():
        options = set(re.findall(r"`(\w+)` \(", rows[kind]))
        assert options == scorer.model_fields.keys() - {"kind"}, kind


def test_the_table_of_keys_has_no_other_keys() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", documented("## Kind `generate`"), re.M)
    assert set(rows) == set(GenerateTaskConfig.model_fields)
