"""A recipe's models where texts and candidates name them: at their commits, or as others call them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.config.values import hub_id


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
