"""Paths of a recipe's local models in texts, replaced by names that do not depend on the machine."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from cycleqd_merge.config.model_names import hub_id, model_names
from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.config.variables import leaf, texts_of


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
    names = local_models(recipe)
    written = {text: names[path] for path, text in _written_models(recipe).items() if path in names}
    return str(with_renamed_models(text, {**written, **names}))


def with_variables(value: Any, recipe: Recipe) -> Any:
    """Plain values with `${NAME}` in the paths of local models that the recipe names with variables."""
    return with_renamed_models(value, _written_models(recipe))


def _written_models(recipe: Recipe) -> dict[str, str]:
    """Local models that the recipe names with variables: their paths as it writes them, by their paths."""
    written: dict[str, str] = {}
    for at, text in texts_of(recipe):
        reference = leaf(recipe, at)
        if at[0] not in ("base", "experts") or not isinstance(reference, str) or not text.environment:
            continue
        names = [each.path for each in model_names(reference)]
        for path in names:
            form = text.put_back(path) if len(names) > 1 or path == reference else path
            if hub_id(path) is None and form != path:
                written[path] = form
    return written


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
