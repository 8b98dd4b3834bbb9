"""mergekit-evolve configurations become recipes that load."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from mergekit.evo.config import EvolMergeConfiguration
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
        (LmEvalTaskConfig(kind="lm_eval", task="coding", limit=100), "coding"),
        (LmEvalTaskConfig(kind="lm_eval", task="mathematics", limit=100), "mathematics"),
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
        (LmEvalTaskConfig(kind="lm_eval", task="alpha", metric="exact_match,none", num_fewshot=3), "alpha"),
        (LmEvalTaskConfig(kind="lm_eval", task="group/beta", num_fewshot=3), "group-beta"),
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
        (PLAIN.replace("tasks: [coding, mathematics]", ""), "tasks: expected a list of names"),
        (PLAIN.replace("[coding, ", "[{weight: 1}, "), "tasks: expected a list of names"),
    ],
)
def test_refused(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "genome.yml").write_text(text)
    with pytest.raises(UserError, match=reason) as caught:
        convert_genome(tmp_path / "genome.yml")
    assert str(caught.value).startswith(f"{tmp_path / 'genome.yml'}: ")
