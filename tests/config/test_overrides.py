"""Overridden keys of a recipe that is already loaded: the same as those of its file."""

from __future__ import annotations

from pathlib import Path

import pytest

from cycleqd_merge.config.loading import loaded_recipe
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
