"""Overridden keys of a recipe that is already loaded: the same as those of its file."""

from __future__ import annotations

from pathlib import Path

import pytest

from cycleqd_merge.config.loading import fix_presets, loaded_recipe, override_recipe
from cycleqd_merge.errors import RecipeError
from cycleqd_merge.session.evolve import evolve
from tests.config.texts import NAMED, load


def test_overrides_of_a_loaded_recipe_are_those_of_its_file(tmp_path: Path) -> None:
    loaded, overrides = load(tmp_path, NAMED), ("evolution.bins=4", "tasks.1.samples=3")
    found = loaded_recipe(loaded, overrides)
    assert (found.evolution.bins, found.tasks[1].samples) == (4, 3)
    assert found == loaded_recipe(tmp_path / "recipe.yaml", overrides)
    assert loaded_recipe(loaded) == loaded


def test_evolve_reports_a_mistake_in_an_override_of_a_loaded_recipe(tmp_path: Path) -> None:
    loaded = load(tmp_path, NAMED, f"output={tmp_path / 'run'}")
    with pytest.raises(RecipeError, match=r"^--set evolution.generatoins=6: evolution.generatoins: unknown key; did"):
        evolve(loaded, overrides=["evolution.generatoins=6"])


RECOMMENDED = f"{NAMED}evolution: {{preset: recommended, bins: 4}}\n"


@pytest.mark.parametrize("preset", ["paper", "null"])
def test_a_different_preset_replaces_the_keys_of_the_old_one(tmp_path: Path, preset: str) -> None:
    fixed = fix_presets(load(tmp_path, RECOMMENDED))
    assert fixed.evolution.preset == "recommended@2"
    assert fixed.fit is not None
    override = f"evolution.preset={preset}"
    found = override_recipe(fixed, [override], "run")
    assert found == load(tmp_path, RECOMMENDED, override)
    assert (found.strategy.kind, found.fit, found.evolution.bins) == ("cycleqd", None, 4)
    assert override_recipe(found, ["evolution.preset=recommended"], "run") == load(tmp_path, RECOMMENDED)
    stated = override_recipe(fixed, [override, "evolution.groups={layers: 2}"], "run")
    assert stated == load(tmp_path, RECOMMENDED, override, "evolution.groups={layers: 2}")
    whole = override_recipe(fixed, [f"evolution={{preset: {preset}}}"], "run")
    assert whole == load(tmp_path, f"{NAMED}evolution: {{preset: {preset}}}\n")


def test_a_different_preset_leaves_the_keys_that_differ_from_the_old_one(tmp_path: Path) -> None:
    text = f"{NAMED}evolution: {{preset: recommended, warm_start: [0.4]}}\nstrategy: {{kind: bayesian, bred: 0.5}}\n"
    found = override_recipe(fix_presets(load(tmp_path, text)), ["evolution.preset=paper"], "run")
    assert found == load(tmp_path, text, "evolution.preset=paper")
    assert (found.strategy.kind, found.evolution.warm_start) == ("bayesian", [0.4])


def test_other_overrides_leave_a_fixed_preset(tmp_path: Path) -> None:
    fixed = fix_presets(load(tmp_path, RECOMMENDED))
    found = override_recipe(fixed, ["evolution.bins=5"], "run")
    assert found.model_copy(update={"evolution": fixed.evolution}) == fixed
    assert found.model_dump(exclude_unset=True)["strategy"] == {"kind": "bayesian"}


def test_a_different_preset_of_a_named_strategy_replaces_the_keys_of_the_old_one(tmp_path: Path) -> None:
    text = f"{NAMED}strategies: {{mine: {{evolution: {{preset: recommended}}}}, other: {{}}}}\n"
    override = "strategies.mine.evolution.preset=paper"
    found = override_recipe(fix_presets(load(tmp_path, text)), [override], "run")
    assert found == load(tmp_path, text, override)
    assert found.strategies["mine"].strategy.kind == "cycleqd"
