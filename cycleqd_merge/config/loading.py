"""From a YAML file to a validated recipe or task definition, with errors that name file, line and key."""

from __future__ import annotations

import copy
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import Node

from cycleqd_merge.config.anchoring import anchored, anchored_task
from cycleqd_merge.config.foreign import guarded
from cycleqd_merge.config.model_names import is_malformed, model_names
from cycleqd_merge.config.origin import is_download
from cycleqd_merge.config.presets import with_fixed_presets, without_preset_keys
from cycleqd_merge.config.recipe import DEPRECATED_KEYS, Recipe, TaskConfig
from cycleqd_merge.config.tasks import TaskDefinitionConfig
from cycleqd_merge.config.validation_errors import Location, Source, explain, short_repr, suggestion
from cycleqd_merge.config.values import REFERENCE_FORM
from cycleqd_merge.deprecation import warn_deprecated
from cycleqd_merge.errors import RecipeError, first_line

_VARIABLE = re.compile(r"(\$?)\$\{(\w+)(?::-([^}]*))?\}")
_Parsed = TypeVar("_Parsed")

DEFINITIONS = next(
    folder
    for folder in (Path(__file__).parents[1] / "tasks" / "definitions", Path(__file__).parents[2] / "tasks")
    if folder.is_dir()
)
"""The shipped task definitions: inside the package in a wheel, at the top level in a checkout."""


def load_recipe(path: str | PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe; its relative paths, and those in `overrides`, are relative to its folder.

    Only `output` is relative to the current directory.

    overrides: `key.path=value` texts whose values are YAML.

    Raises:
        RecipeError: one line per mistake, each with the file, the line, the key, what was found and what is allowed.
    """
    path = Path(path)
    data, node = read_yaml(path)
    published = data.pop("foreign", None) is not None or is_download(path)
    if published:
        data["foreign"] = {"folder": os.path.abspath(path.parent)}
    source = Source(str(path), node, {_override(data, text): text for text in overrides})
    _record_own(data, source.settings)
    recipe = parse(TypeAdapter(Recipe), data if published else _substitute(data, source), source)
    for old, new in DEPRECATED_KEYS.items():
        if old in data:
            warn_deprecated(old, new, "0.3", source.where((old,)))
    return guarded(_with_references(anchored(recipe, path.parent), source), str(path), shipped_tasks())


def loaded_recipe(recipe: Recipe | str | PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """A recipe given as its file's path or as a `Recipe`, with overridden keys and absolute paths.

    Relative paths in a `Recipe`, and in the overrides of one, start at the current directory.

    Raises:
        RecipeError: as `load_recipe`.
    """
    if not isinstance(recipe, Recipe):
        return load_recipe(recipe, overrides)
    if overrides:
        return override_recipe(recipe, overrides, "recipe")
    return guarded(anchored(recipe, Path()), "recipe", shipped_tasks())


def override_recipe(recipe: Recipe, overrides: Sequence[str], where: str) -> Recipe:
    """A recipe with overridden keys; relative paths in `overrides` start at the current directory.

    overrides: as in `load_recipe`. where: names the recipe in messages.

    Raises:
        RecipeError: the result is not a valid recipe.
    """
    data = _for_new_presets(recipe.model_dump(mode="json", exclude_unset=True), overrides)
    source = Source(where, None, {_override(data, text): text for text in overrides})
    _record_own(data, source.settings)
    recipe = _with_references(anchored(parse(TypeAdapter(Recipe), data, source), Path()), source)
    return guarded(recipe, where, shipped_tasks())


def _record_own(data: dict[str, Any], settings: Mapping[Location, str]) -> None:
    """Record in a stranger's recipe the keys that the user set: they are trusted."""
    mark = data.get("foreign")
    if isinstance(mark, dict):
        own = [*mark.get("own", []), *(list(location) for location in settings if location[0] != "foreign")]
        data["foreign"] = {**mark, "own": [key for place, key in enumerate(own) if key not in own[:place]]}


def own_keys(data: Mapping[str, Any], overrides: Sequence[str]) -> list[list[int | str]]:
    """The keys of a recipe that `overrides` set."""
    changed = copy.deepcopy(dict(data))
    return [list(_override(changed, text)) for text in overrides]


def shipped_tasks() -> frozenset[str]:
    """The names of the task definitions that are shipped with this package."""
    return frozenset(path.stem for path in DEFINITIONS.glob("*.yaml"))


def _with_references(recipe: Recipe, source: Source) -> Recipe:
    """The recipe, whose model references must have the form of one unless they are folders that exist.

    Raises:
        RecipeError: a reference has more `+` or `@` than its form allows; one line for each.
    """
    stated: dict[Location, str] = {("base",): recipe.base}
    stated |= {("experts", name): reference for name, reference in recipe.experts.items()}
    errors = [
        f"{source.where(location)}: {'.'.join(map(str, location))}: {REFERENCE_FORM}; found {short_repr(reference)}"
        for location, reference in stated.items()
        if any(map(is_malformed, model_names(reference)))
    ]
    if errors:
        raise RecipeError("\n".join(errors))
    return recipe


def fix_presets(recipe: Recipe, versions: Mapping[str, str] = MappingProxyType({})) -> Recipe:
    """The recipe with a fixed version of each preset, and with the keys that the preset sets.

    versions: see `with_fixed_presets`.

    Raises:
        RecipeError: a version is unknown, or keys that the recipe states cannot be combined with it.
    """
    stated = recipe.model_dump(mode="json", exclude_unset=True)
    fixed = with_fixed_presets(stated, versions)
    return recipe if fixed == stated else parse(TypeAdapter(Recipe), fixed, "recipe")


def load_task(use: TaskConfig) -> TaskDefinitionConfig:
    """The definition of a recipe's task: from its own file, shipped with this package, or written in the recipe.

    Raises:
        RecipeError: there is no such file or shipped definition, or it is not valid.
    """
    if not isinstance(use.task, str):
        return use.task
    shipped = sorted(shipped_tasks())
    named = DEFINITIONS / f"{use.task}.yaml" if use.task in shipped else Path(use.task)  # a file's path is absolute
    path = named if named.is_file() else None
    if path is None:
        hint = suggestion(Path(use.task).name.removesuffix(".yaml").removesuffix(".yml"), shipped)
        raise RecipeError(f"task {use.task!r}: no such file or shipped task; shipped: {', '.join(shipped)}{hint}")
    data, node = read_yaml(path)
    source = Source(str(path), node)
    definition: TaskDefinitionConfig = parse(TypeAdapter(TaskDefinitionConfig), _substitute(data, source), source)
    return anchored_task(definition, path.parent)


def read_yaml(path: Path) -> tuple[Any, Node | None]:
    """Plain values and the node tree (for line numbers) of a YAML mapping.

    Raises:
        RecipeError: the file cannot be read, is not YAML, has duplicate keys or tags, or is not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise RecipeError(f"{path}: not a text file") from None
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        data = YAML(typ="safe", pure=True).load(text)
        node = YAML(typ="safe", pure=True).compose(text)
        json.dumps(
            data, default=str, skipkeys=True
        )  # rejects a value that contains itself, by an alias inside its own anchor
    except MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark is not None else ""
        raise RecipeError(f"{path}{line}: {_problem(error)}") from None
    except (YAMLError, ValueError) as error:
        raise RecipeError(f"{path}: {first_line(error)}") from None
    except RecursionError:
        raise RecipeError(f"{path}: nested too deeply") from None
    if not isinstance(data, dict):
        raise RecipeError(f"{path}: expected keys with values; found {'nothing' if data is None else short_repr(data)}")
    return data, node


def yaml_text(value: Any) -> str:
    """Plain values as YAML, keys in their order."""
    text = io.StringIO()
    yaml: Any = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    yaml.dump(value, text)
    return text.getvalue()


def _problem(error: MarkedYAMLError) -> str:
    """A YAML error in one line."""
    problem = str(error.problem).partition("\n")[0]
    if "constructor for the tag" in problem:
        return f"YAML tags are not allowed: {problem.rsplit('tag ', 1)[-1]}"
    return f"{error.context}, {problem}" if error.context else problem


def parse(adapter: TypeAdapter[_Parsed], data: Any, source: str | Source) -> _Parsed:
    """Validate `data`; one `RecipeError` reports every mistake, one per line.

    source: where the data comes from, or just its name in messages.
    """
    try:
        return adapter.validate_python(data)
    except ValidationError as error:
        written = source if isinstance(source, Source) else Source(source)
        errors = explain(error.errors(include_url=False), data, adapter.json_schema(), written)
        raise RecipeError("\n".join(errors)) from None


def _for_new_presets(data: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A recipe's keys without those of each preset that `overrides` replace, so that the new preset can set them."""
    for text in overrides:
        match text.partition("=")[0].split("."):
            case ["evolution"] | ["evolution", "preset"]:
                data = without_preset_keys(data)
            case ["strategies", name, "evolution"] | ["strategies", name, "evolution", "preset"]:
                strategies = data.get("strategies", {})
                if name in strategies:
                    data = {**data, "strategies": {**strategies, name: without_preset_keys(strategies[name])}}
    return data


def _override(data: dict[str, Any], override: str) -> Location:
    """Apply one `key.path=value`, with numbers as positions in lists; returns the location that it set."""
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise RecipeError(f"--set {override}: write key.path=value")
    try:
        value = YAML(typ="safe", pure=True).load(text) if text else None
    except MarkedYAMLError as error:
        raise RecipeError(f"--set {override}: {_problem(error)}") from None
    steps = path.split(".")
    part: Any = data
    location: Location = ()
    for step in steps[:-1]:
        key = _key(part, step, location, override)
        inner = copy.copy(part.get(key, {}) if isinstance(part, dict) else part[key])  # an alias may share it
        part[key] = inner
        part = inner
        location = (*location, key)
    key = _key(part, steps[-1], location, override)
    part[key] = value
    return (*location, key)


def _key(part: Any, step: str, location: Location, override: str) -> int | str:
    """A step of an override's path as a key of `part`, or as a position if that is a list."""
    if isinstance(part, dict):
        return step
    at = ".".join(map(str, location))
    if not isinstance(part, list):
        raise RecipeError(f"--set {override}: {at} is a value and has no keys")
    if not step.isdecimal() or int(step) >= len(part):
        places = f"positions are 0 to {len(part) - 1}" if part else "it is empty"
        raise RecipeError(f"--set {override}: {at} is a list without position {step!r}; {places}")
    return int(step)


def _substitute(value: Any, source: Source, location: Location = ()) -> Any:
    """Replace `${VAR}` and `${VAR:-default}` in every text by environment variables; `$${` is a literal `${`."""
    if isinstance(value, dict):
        return {key: _substitute(item, source, (*location, key)) for key, item in value.items()}
    if isinstance(value, list):
        return [_substitute(item, source, (*location, place)) for place, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def lookup(match: re.Match[str]) -> str:
        escaped, name, default = match.groups()
        if escaped:
            return match.group().removeprefix("$")
        found = os.environ.get(name) or default  # as in a shell, an empty variable takes the default too
        if found is None and name not in os.environ:
            key = ".".join(map(str, location))
            raise RecipeError(
                f"{source.where(location)}: {key}: ${{{name}}} is not set; set the environment variable, "
                "or the key with --set"
            )
        return found or ""

    return _VARIABLE.sub(lookup, value)
