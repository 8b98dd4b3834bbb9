"""Paths of a recipe's local models in texts, replaced by names that do not depend on the machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.config.values import hub_id


def local_models(recipe: Recipe) -> dict[str, str]:
    """Portable names of local models, by their paths on this machine."""
    names: dict[str, str] = {}
    for name, reference in (("base", recipe.base), *((f"expert-{key}", text) for key, text in recipe.experts.items())):
        for part in reference.split("+"):
            path = part.partition("@")[0]
            if hub_id(path) is None:
                names.setdefault(path, f"./models/{name}")
    return names


def without_paths(text: str, recipe: Recipe) -> str:
    """A text, such as a file of an exported model, with portable names for local models."""
    return str(with_renamed_models(text, local_models(recipe)))


def with_renamed_models(value: Any, names: Mapping[str, str]) -> Any:
    """Plain values with local models renamed in their texts. names: new names by path."""
    if isinstance(value, list):
        return [with_renamed_models(each, names) for each in value]
    if isinstance(value, dict):
        return {key: with_renamed_models(each, names) for key, each in value.items()}
    if not isinstance(value, str) or not names:
        return value
    paths = "|".join(re.escape(path) for path in sorted(names, key=len, reverse=True))
    return re.sub(rf"(?<![\w./-])({paths})(?![\w-])", lambda found: names[found[0]], value)
