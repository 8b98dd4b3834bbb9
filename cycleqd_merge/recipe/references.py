"""A recipe's models where texts and candidates name them: at their commits, or as others call them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from cycleqd_merge.evolution.strategy import Candidate, MergeConfiguration
from cycleqd_merge.recipe.schema import Recipe
from cycleqd_merge.recipe.values import hub_id

_NAMING = ("model", "base_model", "lora")
"""Keys of a mergekit configuration whose text is a model reference."""


def local_models(recipe: Recipe) -> dict[str, str]:
    """What local models are called for others, by their paths here."""
    names: dict[str, str] = {}
    for name, reference in (("base", recipe.base), *((f"expert-{key}", text) for key, text in recipe.experts.items())):
        for part in reference.split("+"):
            path = part.partition("@")[0]
            if hub_id(path) is None:
                names.setdefault(path, f"./models/{name}")
    return names


def without_paths(text: str, recipe: Recipe) -> str:
    """A text, such as a file of an exported model, with local models called as others call them."""
    return str(respelled(text, local_models(recipe)))


def respelled(value: Any, names: Mapping[str, str]) -> Any:
    """Plain values with local models in their texts called otherwise. names: new ones by paths."""
    if isinstance(value, list):
        return [respelled(each, names) for each in value]
    if isinstance(value, dict):
        return {key: respelled(each, names) for key, each in value.items()}
    if not isinstance(value, str) or not names:
        return value
    paths = "|".join(re.escape(path) for path in sorted(names, key=len, reverse=True))
    return re.sub(rf"(?<![\w./-])({paths})(?![\w-])", lambda found: names[found[0]], value)


def pinned_candidate(candidate: Candidate, recipe: Recipe) -> Candidate:
    """A candidate whose configuration names the recipe's models at the commits that the run is pinned to."""
    if not isinstance(candidate, MergeConfiguration):
        return candidate
    try:
        stated = yaml.safe_load(candidate.yaml)
    except yaml.YAMLError:
        return candidate  # whoever evaluates it tells what is wrong
    pinned = _renamed(stated, recipe.pinned)
    if pinned == stated:
        return candidate
    return MergeConfiguration(yaml.safe_dump(pinned, sort_keys=False, allow_unicode=True), candidate.seed)


def portable_candidate(candidate: Candidate, recipe: Recipe) -> Candidate:
    """A candidate as others see it, wherever its models lie here or there."""
    if not isinstance(candidate, MergeConfiguration):
        return candidate
    return MergeConfiguration(without_paths(candidate.yaml, recipe), candidate.seed)


def _renamed(value: Any, rename: Callable[[str], str], key: str = "") -> Any:
    """A configuration's plain values with every model reference in them renamed."""
    if isinstance(value, list):
        return [_renamed(each, rename, key) for each in value]
    if isinstance(value, dict):
        return {name: _renamed(each, rename, name) for name, each in value.items()}
    return rename(value) if isinstance(value, str) and key in _NAMING else value
