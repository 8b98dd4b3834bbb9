"""Presets: versioned sets of settings by name, for the keys that a recipe does not state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

PRESETS: dict[str, dict[str, Any]] = {
    "paper@1": {},
    "recommended@1": {
        "strategy": {"kind": "bayesian"},
        "evolution": {"warm_start": [0.3, 0.5, 0.7, 1.0], "groups": {"blocks": 3, "modules": True}},
    },
    "recommended@2": {
        "strategy": {"kind": "bayesian"},
        "evolution": {"groups": {"blocks": 3, "modules": True}},
        "fit": {
            "coefficients": "tensor",
            "scales": "channel",
            "loss": "distillation",
            "steps": 300,
            "spread_steps": 100,
            "learning_rate": 0.1,
            "start": 0.5,
            "weights": "spread",
        },
    },
}
"""The keys of a recipe that each version sets; other keys are the paper's by default. docs/results.md says why.

A version never changes: a different preset is a new version (docs/compatibility.md)."""


def preset_name(preset: str) -> str:
    """A preset's name without its version."""
    return preset.partition("@")[0]


def newest(preset: str) -> str:
    """A preset with its version: the newest one if it states none."""
    versions = [each for each in PRESETS if preset_name(each) == preset]
    return max(versions, key=lambda each: int(each.partition("@")[2])) if versions else preset


def newest_versions() -> dict[str, str]:
    """Every preset in its newest version, by name."""
    return {name: newest(name) for name in map(preset_name, PRESETS)}


def preset_evolution(stated: Any) -> dict[str, Any]:
    """The keys that the preset in `evolution` sets, without those that `evolution` itself states."""
    values = _preset_in(stated).get("evolution", {})
    return {key: value for key, value in values.items() if key not in stated}


def preset_sections(stated: Any) -> dict[str, Any]:
    """The sections `strategy` and `fit` that the preset in `evolution` sets, for a recipe that does not state them."""
    if not isinstance(stated, Mapping):
        return {}
    return {
        key: value for key, value in _preset_in(stated.get("evolution")).items() if key not in (*stated, "evolution")
    }


def preset_fit(stated: Any) -> dict[str, Any]:
    """The keys of `fit` that the preset in `evolution` sets, without those that a stated `fit` has itself."""
    fit = stated.get("fit") if isinstance(stated, Mapping) else None
    if not isinstance(fit, Mapping):
        return {}
    return {key: value for key, value in _preset_in(stated.get("evolution")).get("fit", {}).items() if key not in fit}


def with_fixed_presets(recipe: Mapping[str, Any], versions: Mapping[str, str]) -> dict[str, Any]:
    """A recipe's keys with every preset in a fixed version, and the keys that this version sets.

    versions: the version of presets without one, by name; the newest for presets that are not in it.
    """
    result = _with_fixed_preset(recipe, versions)
    for key in ("strategies", "searches"):  # the second is its name in version 0.1
        named = recipe.get(key)
        if isinstance(named, Mapping):
            fixed = {name: _with_fixed_preset(own, versions) for name, own in named.items() if isinstance(own, Mapping)}
            result[key] = {**named, **fixed}
    return result


def _with_fixed_preset(stated: Mapping[str, Any], versions: Mapping[str, str]) -> dict[str, Any]:
    evolution = stated.get("evolution")
    preset = evolution.get("preset") if isinstance(evolution, Mapping) else None
    if not isinstance(evolution, Mapping) or not isinstance(preset, str):
        return dict(stated)
    fixed = {**evolution, "preset": versions.get(preset, newest(preset))}
    now = {**stated, "evolution": fixed}
    sections = preset_sections(now)
    if filled := preset_fit(now):
        sections["fit"] = {**filled, **stated["fit"]}
    return {**now, "evolution": {**preset_evolution(fixed), **fixed}, **sections}


def without_preset_keys(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's keys without those that have the value of its preset in a fixed version, as `with_fixed_presets` adds.

    A different preset can then set them.
    """
    evolution = recipe.get("evolution")
    preset = evolution.get("preset") if isinstance(evolution, Mapping) else None
    if not isinstance(evolution, Mapping) or not isinstance(preset, str):
        return dict(recipe)
    fixed = PRESETS.get(preset, {})  # a preset without a version has none: its keys were not added
    unset = object()
    kept = {key: value for key, value in recipe.items() if key == "evolution" or value != fixed.get(key, unset)}
    if isinstance(stated := kept.get("fit"), Mapping):
        own = fixed.get("fit", {})
        kept["fit"] = {key: value for key, value in stated.items() if key not in own or value != own[key]}
    own = fixed.get("evolution", {})
    kept["evolution"] = {key: value for key, value in evolution.items() if key not in own or value != own[key]}
    return kept


def first_versions() -> dict[str, str]:
    """The versions of presets without one in a journal, which was written when each preset had a single version."""
    return {preset_name(each): f"{preset_name(each)}@1" for each in PRESETS}


def _preset_in(evolution: Any) -> dict[str, Any]:
    preset = evolution.get("preset") if isinstance(evolution, Mapping) else None
    return PRESETS.get(newest(preset), {}) if isinstance(preset, str) else {}


def _require_preset(value: str) -> str:
    known = _known()
    if value not in known:
        raise PydanticCustomError("literal_error", "no such preset", {"expected": ", ".join(map(repr, known))})
    return value


def _known() -> list[str]:
    return [*dict.fromkeys(map(preset_name, PRESETS)), *PRESETS]


PresetName = Annotated[str, AfterValidator(_require_preset), WithJsonSchema({"type": "string", "enum": _known()})]
"""A preset in its newest version, as `name`, or in a fixed one, as `name@version`."""
