"""Paths of a recipe's local models in texts, replaced by names that do not depend on the machine."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from cycleqd_merge.config.model_names import hub_id, model_names
from cycleqd_merge.config.recipe import Recipe


def local_models(recipe: Recipe) -> dict[str, str]:
    """Portable names of local models, by their paths on this machine."""
    names: dict[str, str] = {}
    for name, reference in (("base", recipe.base), *((f"expert-{key}", text) for key, text in recipe.experts.items())):
        for each in model_names(reference):
            if hub_id(each.path) is None:
                names.setdefault(each.path, f"./models/{name}")
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
    spelled = {text: name for path, name in names.items() for text in _spellings(path)}
    paths = "|".join(re.escape(path) for path in sorted(spelled, key=len, reverse=True))
    return re.sub(rf"(?<![\w./-])({paths})(?![\w-])", lambda found: spelled[found[0]], value)


def _spellings(path: str) -> set[str]:
    """A path as it is written in plain text, and inside quotation marks in JSON and YAML."""
    escaped = "".join(
        letter if letter.isascii() else f"\\x{ord(letter):02X}" if ord(letter) < 256 else f"\\u{ord(letter):04X}"
        for letter in path
    )
    return {path, json.dumps(path)[1:-1], escaped, path.replace("'", "''")}
