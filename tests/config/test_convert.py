"""mergekit-evolve configurations become recipes that load."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from mergekit.evo.config import EvolMergeConfiguration
from mergekit.evo.genome import ModelGenomeDefinition
from typer.testing import CliRunner

from cycleqd_merge.cli import app
from cycleqd_merge.config.convert import convert_genome
from cycleqd_merge.config.evolution import LayerGroupsConfig, PatternGroupsConfig
from cycleqd_merge.config.loading import load_recipe
from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.config.tasks import LmEvalTaskConfig
from cycleqd_merge.errors import UserError

PLAIN = """
genome:
  models: [some/coder, some/mathematician@main, some/base]
  merge_method: task_arithmetic
  base_model: some/base
  layer_granularity: 8
tasks: [coding, mathematics]
limit: 100
"""
RICH = """
genome:
  models:
    - {model: {path: some/coder, revision: v2}}
    - {model: some/base, lora: some/adapter}
    - some/other/coder
  merge_method: dare_ties
  base_model: {model: {path: some/base}}
  layer_granularity: 4
  allow_negative_weights: true
  filters: [self_attn, mlp]
tasks:
  - {name: alpha, weight: 0.5, metric: "exact_match,none"}
  - {name: alpha, weight: 0.5, metric: "f1,none"}
  - group/beta
num_fewshot: 3
"""
CHAT: dict[str, Any] = {"chat": True, "fewshot_as_multiturn": True}
"""Mergekit-evolve's defaults."""
FILTERED = """
genome:
  models: [a/one, b/two]
  merge_method: linear
  base_model: a/base
  filters: [self_attn.q_proj, mlp]
tasks: [{name: x}, {name: y}]
"""


def converted(text: str, folder: Path) -> tuple[Recipe, str]:
    """The recipe that the command prints, loaded, and its header."""
    EvolMergeConfiguration.model_validate(yaml.safe_load(text))  # mergekit would take it
    (folder / "genome.yml").write_text(text)
    result = CliRunner().invoke(app, ["convert", str(folder / "genome.yml")])
    assert result.exit_code == 0
    (folder / "recipe.yaml").write_text(result.output)
    header = "".join(line for line in result.output.splitlines(keepends=True) if line.startswith("#"))
    return load_recipe(folder / "recipe.yaml"), header


def test_a_plain_one(tmp_path: Path) -> None:
    recipe, header = converted(PLAIN, tmp_path)
    assert recipe.base == "some/base"
    assert recipe.experts == {"coder": "some/coder", "mathematician": "some/mathematician@main"}
    assert [(use.task, use.name) for use in recipe.tasks] == [
        (LmEvalTaskConfig(kind="lm_eval", task="coding", limit=100, **CHAT), "coding"),
        (LmEvalTaskConfig(kind="lm_eval", task="mathematics", limit=100, **CHAT), "mathematics"),
    ]
    assert recipe.evolution.groups == LayerGroupsConfig(layers=8)
    assert recipe.output == "runs/genome"
    assert header.endswith("# Not carried over:\n#   the base in the list of models: it has no task vector.\n")


def test_a_rich_one_says_what_is_left_out(tmp_path: Path) -> None:
    recipe, header = converted(RICH, tmp_path)
    assert recipe.experts == {
        "expert-1": "some/coder@v2",
        "expert-2": "some/base+some/adapter",
        "expert-3": str(tmp_path / "some/other/coder"),  # no Hub id has two slashes
    }
    assert [(use.task, use.name) for use in recipe.tasks] == [
        (LmEvalTaskConfig(kind="lm_eval", task="alpha", metric="exact_match,none", num_fewshot=3, **CHAT), "alpha"),
        (LmEvalTaskConfig(kind="lm_eval", task="group/beta", num_fewshot=3, **CHAT), "group-beta"),
    ]
    assert recipe.evolution.groups == LayerGroupsConfig(layers=4, modules=True)
    further = "other metrics of alpha"
    for part in ("merge_method dare_ties", "filters self_attn, mlp", "weight of tasks", further, "allow_negative"):
        assert f"#   {part}" in header


def test_filters_alone_become_patterns(tmp_path: Path) -> None:
    recipe, header = converted(FILTERED, tmp_path)
    assert recipe.evolution.groups == PatternGroupsConfig(patterns=[r"self_attn\.q_proj", "mlp"])
    assert "#   merge_method linear: " in header


def test_a_method_unknown_to_mergekit_evolve_is_noted(tmp_path: Path) -> None:
    (tmp_path / "genome.yml").write_text(PLAIN.replace("task_arithmetic", "karcher"))
    assert "merge_method karcher: " in convert_genome(tmp_path / "genome.yml").notes[0]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("merge_method: linear\nmodels: [{model: a}]\n", "no `genome` with `models`"),
        ("genome: {models: 3}\n", "no `genome` with `models`"),
        (PLAIN.replace("base_model: some/base", "smooth: false"), "genome.base_model is missing"),
        (PLAIN.replace("some/coder, ", ""), "at least 2 models besides the base are required; found 1"),
        (PLAIN.replace("some/coder", "7"), "genome.models: 7 is not a model"),
        (PLAIN.replace("coding, ", ""), "tasks: at least 2 are required, one archive each; found 1"),
        (PLAIN.replace("limit: 100", "limit: many"), "limit: expected a number; found 'many'"),
        (
            PLAIN.replace("granularity: 8", "granularity: many"),
            "genome.layer_granularity: expected a whole number; found 'many'",
        ),
        (
            FILTERED.replace("[self_attn.q_proj, mlp]", "self_attn"),
            "genome.filters: expected a list of texts; found 'self_attn'",
        ),
        (PLAIN.replace("tasks: [coding, mathematics]", ""), "tasks: expected a list of names"),
        (PLAIN.replace("[coding, ", "[{weight: 1}, "), "tasks: expected a list of names"),
    ],
)
def test_refused(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "genome.yml").write_text(text)
    with pytest.raises(UserError, match=reason) as caught:
        convert_genome(tmp_path / "genome.yml")
    assert str(caught.value).startswith(f"{tmp_path / 'genome.yml'}: ")


@pytest.mark.parametrize(
    ("stated", "wanted"),
    [
        ({}, CHAT),
        ({"apply_chat_template": True, "fewshot_as_multiturn": False}, {"chat": True}),
        ({"fewshot_as_multiturn": False}, {"chat": True}),
        ({"apply_chat_template": False}, {}),
        ({"apply_chat_template": False, "fewshot_as_multiturn": True}, {}),
        ({"apply_chat_template": False, "fewshot_as_multiturn": False, "num_fewshot": 0}, {"num_fewshot": 0}),
    ],
)
def test_chat_templates_are_applied_as_by_mergekit_evolve(
    tmp_path: Path, stated: dict[str, Any], wanted: dict[str, Any]
) -> None:
    recipe, header = converted(yaml.safe_dump({**yaml.safe_load(PLAIN), **stated}), tmp_path)
    for use in recipe.tasks:
        assert use.task == LmEvalTaskConfig(kind="lm_eval", task=use.name or "", limit=100, **wanted)
    assert "chat" not in header.partition("Not carried over")[2]


NOT_DEFAULT: dict[str, dict[str, Any]] = {
    "genome": {
        "normalize": True,
        "allow_negative_weights": True,
        "smooth": True,
        "tokenizer_source": "union",
        "merge_method": "ties",
        "own_key": 1,
    },
    "": {"shuffle": True, "random_init": True, "limit": 1, "vllm": True},
}
CARRIED = {"models", "base_model", "layer_granularity", "filters", "genome", "tasks", "num_fewshot"}
CARRIED |= {"apply_chat_template", "fewshot_as_multiturn"}


@pytest.mark.parametrize(
    ("section", "key"), [(section, key) for section in NOT_DEFAULT for key in NOT_DEFAULT[section]]
)
def test_each_setting_that_cannot_be_carried_has_one_line(tmp_path: Path, section: str, key: str) -> None:
    stated = yaml.safe_load(PLAIN)
    _, before = converted(PLAIN, tmp_path)
    (stated if section == "" else stated[section])[key] = NOT_DEFAULT[section][key]
    _, header = converted(yaml.safe_dump(stated), tmp_path)
    (line,) = set(header.splitlines()) - set(before.splitlines())
    assert re.match(rf"#   ([a-z]+\.)?{key}\b.*: \S.*\.$", line)


def test_every_key_of_mergekit_evolve_is_carried_or_has_a_line() -> None:
    assert set(EvolMergeConfiguration.model_fields) <= CARRIED | NOT_DEFAULT[""].keys()
    assert set(ModelGenomeDefinition.model_fields) <= CARRIED | NOT_DEFAULT["genome"].keys()


def test_keys_of_tasks_that_mergekit_evolve_lacks_are_noted(tmp_path: Path) -> None:
    _, header = converted(PLAIN.replace("[coding, ", "[{name: coding, num_fewshot: 3}, "), tmp_path)
    assert "#   tasks.num_fewshot: not a key of mergekit-evolve, which ignores it.\n" in header
