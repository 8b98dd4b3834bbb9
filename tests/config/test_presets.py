"""Presets: what they set, in which version, and that keys of the recipe take precedence."""

from __future__ import annotations

from typing import Any

import pytest

from cycleqd_merge.config.loading import fix_presets
from cycleqd_merge.config.presets import (
    PRESETS,
    first_versions,
    newest,
    with_fixed_presets,
    without_preset_keys,
)
from cycleqd_merge.config.recipe import Recipe, json_schema
from cycleqd_merge.errors import RecipeError

SECOND = {
    "strategy": {"kind": "cma-me"},
    "evolution": {"warm_start": [0.25], "groups": {"layers": 1}, "sigma": 0.5},
}


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second version of `recommended`."""
    monkeypatch.setitem(PRESETS, "recommended@2", SECOND)


def recipe(**stated: Any) -> Recipe:
    plain = {"base": "b", "experts": {"x": "x", "y": "y"}, "output": "o", "tasks": [{"task": "a"}, {"task": "b"}]}
    return Recipe.model_validate({**plain, **stated})


def settings(made: Recipe) -> tuple[Any, ...]:
    return made.strategy.kind, made.evolution.warm_start, made.evolution.groups, made.evolution.sigma


FIRST_SETTINGS = ("bayesian", [0.3, 0.5, 0.7, 1.0], {"layers": None, "blocks": 3, "modules": True}, 0.03)
SECOND_SETTINGS = ("cma-me", [0.25], {"layers": 1, "blocks": None, "modules": False}, 0.5)


def plain(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value.model_dump() if hasattr(value, "model_dump") else value for value in values)


@pytest.mark.usefixtures("second")
@pytest.mark.parametrize(
    ("preset", "wanted"),
    [("recommended", SECOND_SETTINGS), ("recommended@2", SECOND_SETTINGS), ("recommended@1", FIRST_SETTINGS)],
)
def test_a_preset_without_a_version_is_the_newest(preset: str, wanted: tuple[Any, ...]) -> None:
    assert plain(settings(recipe(evolution={"preset": preset}))) == wanted


def test_versions_count_as_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert newest("recommended") == "recommended@2"
    for version in (9, 10):
        monkeypatch.setitem(PRESETS, f"recommended@{version}", {})
    assert newest("recommended") == "recommended@10"
    assert newest("recommended@1") == "recommended@1"
    assert newest("paper") == "paper@1"


def test_what_a_preset_sets_is_not_stated() -> None:
    made = recipe(evolution={"preset": "recommended", "bins": 4})
    assert made.model_dump(exclude_unset=True)["evolution"] == {"preset": "recommended", "bins": 4}
    assert "strategy" not in made.model_fields_set


@pytest.mark.usefixtures("second")
def test_a_version_can_be_fixed_later() -> None:
    made = recipe(evolution={"preset": "recommended", "bins": 4})
    old = fix_presets(made, {"recommended": "recommended@1"})
    assert plain(settings(old)) == FIRST_SETTINGS
    assert (old.evolution.preset, old.evolution.bins) == ("recommended@1", 4)
    assert plain(settings(fix_presets(made))) == SECOND_SETTINGS
    assert fix_presets(made).evolution.preset == "recommended@2"
    assert fix_presets(old) is old
    fixed = recipe(evolution={"preset": "recommended@2"})
    assert plain(settings(fix_presets(fixed, first_versions()))) == SECOND_SETTINGS
    other = recipe(evolution={"bins": 4})
    assert fix_presets(other) is other


@pytest.mark.usefixtures("second")
def test_stated_keys_stay_whatever_the_version_even_if_they_equal_its_own() -> None:
    stated = {"preset": "recommended", "groups": {"layers": 1}, "warm_start": [0.9]}
    made = fix_presets(recipe(evolution=stated, strategy={"kind": "cma-me"}), first_versions())
    assert plain(settings(made)) == ("cma-me", [0.9], {"layers": 1, "blocks": None, "modules": False}, 0.03)


@pytest.mark.usefixtures("second")
def test_a_fixed_recipe_states_what_its_preset_sets() -> None:
    stated = fix_presets(recipe(evolution={"preset": "recommended"})).model_dump(mode="json", exclude_unset=True)
    assert stated["evolution"] == {"preset": "recommended@2", **SECOND["evolution"]}
    assert stated["strategy"] == SECOND["strategy"]


@pytest.mark.usefixtures("second")
def test_strategies_for_compare_have_versions_too() -> None:
    made = recipe(strategies={"mine": {"evolution": {"preset": "recommended"}}, "plain": {}})
    assert made.strategies["mine"].strategy.kind == "cma-me"
    old = fix_presets(made, first_versions())
    assert (old.strategies["mine"].strategy.kind, old.strategies["mine"].evolution.sigma) == ("bayesian", 0.03)
    assert old.strategies["plain"] == made.strategies["plain"]
    recorded = {"searches": {"mine": {"evolution": {"preset": "recommended"}}}}  # the key in journals of version 0.1
    fixed = with_fixed_presets(recorded, first_versions())["searches"]["mine"]
    assert fixed["evolution"]["preset"] == "recommended@1"
    assert old.strategy == made.strategy


def test_a_preset_that_is_paper_in_any_version_evaluates_one_child_at_a_time() -> None:
    assert recipe(evolution={"preset": "paper@1"}).evolution.children_in_flight(4) == 1


@pytest.mark.parametrize(
    "damaged", [{"evolution": 3}, {"evolution": {"preset": []}}, {"strategies": [1]}, {"searches": [1]}, {}]
)
def test_keys_that_are_damaged_are_left_to_validation(damaged: dict[str, Any]) -> None:
    assert with_fixed_presets(damaged, first_versions()) == damaged


def test_a_version_that_this_program_does_not_know_is_an_error() -> None:
    with pytest.raises(RecipeError, match="not an allowed value; did you mean 'recommended@"):
        fix_presets(recipe(evolution={"preset": "recommended"}), {"recommended": "recommended@3"})


def test_editors_know_the_versions() -> None:
    described = str(json_schema("recipe")["$defs"]["EvolutionConfig"]["properties"]["preset"])
    assert "['paper', 'recommended', 'paper@1', 'recommended@1', 'recommended@2']" in described


def test_a_preset_may_set_fits_key_by_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "recommended@2", {"evolution": {"sigma": 0.5}, "fit": {"steps": 7, "rows": 3}})
    plain_fit = recipe(evolution={"preset": "recommended@2"})
    assert plain_fit.fit is not None
    assert (plain_fit.fit.steps, plain_fit.fit.rows) == (7, 3)
    assert plain_fit.model_dump(exclude_unset=True)["evolution"] == {"preset": "recommended@2"}
    assert "fit" not in plain_fit.model_fields_set
    fixed = fix_presets(plain_fit).model_dump(mode="json", exclude_unset=True)
    assert fixed["fit"] == {"steps": 7, "rows": 3}

    own = recipe(evolution={"preset": "recommended@2"}, fit={"rows": 5})
    assert own.fit is not None
    assert (own.fit.steps, own.fit.rows, own.fit.model_fields_set) == (7, 5, {"rows"})
    stated = fix_presets(own).model_dump(mode="json", exclude_unset=True)
    assert stated["fit"] == {"steps": 7, "rows": 5}
    assert without_preset_keys(stated)["fit"] == {"rows": 5}
    assert "fit" not in without_preset_keys(fixed)
    assert recipe(evolution={"preset": "recommended@2"}, fit=None).fit is None
