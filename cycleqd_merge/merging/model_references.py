"""Model references inside a candidate: pinned to commits, or without the paths of this machine."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any

import yaml

from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.config.references import without_paths
from cycleqd_merge.evolution.candidate import Candidate, MergekitConfiguration

_REFERENCE_KEYS: Collection[str] = ("model", "base_model", "lora")
"""Keys of a mergekit configuration whose values are model references."""
PATH_KEYS: Collection[str] = (*_REFERENCE_KEYS, "path")
"""The same, with the key of a path in a reference that is written as a mapping."""


def pinned_candidate(candidate: Candidate, recipe: Recipe) -> Candidate:
    """The candidate with the recipe's models in its configuration pinned to the run's commits."""
    if not isinstance(candidate, MergekitConfiguration):
        return candidate
    try:
        stated = yaml.safe_load(candidate.yaml)
    except yaml.YAMLError:
        return candidate  # its evaluation reports the error
    pinned = with_renamed_references(stated, recipe.pinned)
    if pinned == stated:
        return candidate
    text = yaml.safe_dump(pinned, sort_keys=False, allow_unicode=True, width=math.inf)
    return MergekitConfiguration(text, candidate.seed)


def portable_candidate(candidate: Candidate, recipe: Recipe) -> Candidate:
    """The candidate without the paths of local models: the same on every machine, and safe to publish."""
    if not isinstance(candidate, MergekitConfiguration):
        return candidate
    return MergekitConfiguration(without_paths(candidate.yaml, recipe), candidate.seed)


def with_renamed_references(
    value: Any, rename: Callable[[str], str], key: str = "", keys: Collection[str] = _REFERENCE_KEYS
) -> Any:
    """A configuration's plain values with every model reference in them renamed. keys: those of references."""
    if isinstance(value, list):
        return [with_renamed_references(each, rename, key, keys) for each in value]
    if isinstance(value, dict):
        return {name: with_renamed_references(each, rename, name, keys) for name, each in value.items()}
    return rename(value) if isinstance(value, str) and key in keys else value
