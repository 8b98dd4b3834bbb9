"""Static merges by mergekit's methods: which are tried, and that candidates equal what stock mergekit builds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from mergekit.merge_methods.registry import registered_methods
from mergekit.scripts.run_yaml import main as mergekit_yaml

from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.config.strategies import MergekitConfig
from cycleqd_merge.errors import UserError
from cycleqd_merge.evolution.candidate import MergekitConfiguration
from cycleqd_merge.merging.merge_grid import static_merges
from cycleqd_merge.merging.mergekit_matrix_merges import MATRIX_MERGES
from cycleqd_merge.merging.mergekit_run import merged_tensors
from tests.models import make_adapter, make_base, make_expert, make_recipe, on_base, open_recipe_family, read_tensors

NO_MERGE = {"passthrough", "cycleqd", *MATRIX_MERGES}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Two full experts and an adapter."""
    folder = tmp_path_factory.mktemp("models")
    base = make_base(folder / "base", "llama")
    experts: dict[str, Any] = {name: make_expert(base, folder / name, seed) for seed, name in enumerate(("a", "b"))}
    adapter = make_adapter(base, folder / "c", seed=3)
    return make_recipe(folder, base, {**experts, "c": on_base(base, adapter)})


def tried(recipe: Recipe, **setting: Any) -> list[tuple[MergekitConfiguration, dict[str, Any]]]:
    return static_merges(recipe, MergekitConfig(kind="mergekit", **setting))


def test_every_method_of_mergekit_is_tried(recipe: Recipe) -> None:
    found = {step["merge"] for _, step in tried(recipe)}
    assert found == {method.spec.name for method in registered_methods()} - NO_MERGE


def test_each_candidate_is_what_stock_mergekit_builds(recipe: Recipe, tmp_path: Path) -> None:
    """The first configuration of every method, bit for bit."""
    family = open_recipe_family(recipe)
    first: dict[str, MergekitConfiguration] = {}
    for configuration, step in tried(recipe):
        first.setdefault(step["merge"], configuration)
    for method, configuration in first.items():
        text = configuration.yaml + "out_dtype: bfloat16\n"
        (tmp_path / f"{method}.yml").write_text(text)
        arguments = [str(tmp_path / f"{method}.yml"), str(tmp_path / method), "--quiet"]
        lora = ["--lora-merge-cache", str(tmp_path / "lora"), "--lora-merge-dtype", "float32"]
        seed = ["--random-seed", str(configuration.seed)]
        mergekit_yaml.main([*arguments, *lora, *seed], standalone_mode=False)
        wanted = read_tensors(tmp_path / method)
        found = dict(merged_tensors(configuration, family))
        assert found.keys() == wanted.keys(), method
        for name, tensor in wanted.items():
            assert torch.equal(found[name], tensor.to(found[name].dtype)), (method, name)


def test_steps_state_the_content_of_a_configuration(recipe: Recipe) -> None:
    found = tried(recipe, methods=["slerp", "ties"], grid={"ties": {"weight": [0.5], "density": [0.2, 0.4]}})
    slerp = [{"merge": "slerp", "models": list(pair), "parameters": {"t": t}} for pair in ("ab", "ac", "bc") for t in T]
    ties = [{"merge": "ties", "models": list("abc"), "parameters": {"weight": 0.5, "density": d}} for d in (0.2, 0.4)]
    assert [step for _, step in found] == [slerp[0], ties[0], slerp[1], ties[1], *slerp[2:]]
    text = yaml.safe_load(found[3][0].yaml)
    assert text["base_model"] == recipe.base
    assert [each["model"] for each in text["models"]] == list(recipe.experts.values())
    assert {str(each["parameters"]) for each in text["models"]} == {"{'weight': 0.5, 'density': 0.4}"}


T = (0.3, 0.5, 0.7)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"methods": ["tie"]}, "no method 'tie'.*ties"),
        ({"grid": {"ties": {"densty": [0.5]}}}, "ties has no parameter 'densty'.*density"),
        ({"grid": {"nosuch": {"t": [0.5]}}}, "no method 'nosuch'"),
        (
            {"methods": ["slerp"], "grid": {"slerp": {}}},
            "slerp cannot merge 3 experts, or has required parameters; give their values in `grid`",
        ),
    ],
)
def test_what_mergekit_does_not_know_is_refused(recipe: Recipe, setting: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tried(recipe, **setting)
