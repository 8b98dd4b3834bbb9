"""From a YAML file to a validated recipe or task definition, with errors that name file, line and key."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from cycleqd_merge.errors import UserError
from cycleqd_merge.recipe.schema import Recipe, TaskUse
from cycleqd_merge.recipe.task_file import GenerateTask, PythonTask, TaskDefinition

_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")
_Parsed = TypeVar("_Parsed")

DEFINITIONS = next(
    folder
    for folder in (Path(__file__).parents[1] / "tasks" / "definitions", Path(__file__).parents[2] / "tasks")
    if folder.is_dir()
)
"""The shipped task definitions: inside the package in a wheel, at the top level in a checkout."""


@dataclass(frozen=True)
class LoadedTask:
    """A task definition and the folder that its relative paths start at."""

    definition: GenerateTask | PythonTask
    folder: Path


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe. `overrides` are `key.path=value` texts whose values are YAML.

    Raises:
        UserError: one line per fault, each with the file, the line, the key, what was found and what is allowed.
    """
    data, node = read_yaml(path)
    for override in overrides:
        _override(data, override)
    data = _substitute(data, path)
    recipe = parse(TypeAdapter(Recipe), data, str(path), node)
    return _anchor(recipe, path.parent)


def load_task(use: TaskUse, folder: Path) -> LoadedTask:
    """The definition that a recipe's task names; `folder` is where the recipe's relative paths start.

    Raises:
        UserError: there is no such file or shipped definition, or it is not valid.
    """
    if not isinstance(use.task, str):
        return LoadedTask(use.task, folder)
    candidates = (folder / use.task, DEFINITIONS / f"{use.task}.yaml")
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        shipped = sorted(file.stem for file in DEFINITIONS.glob("*.yaml"))
        hint = _nearest(use.task, shipped)
        raise UserError(f"task {use.task!r}: no such file, nor among the shipped tasks ({', '.join(shipped)}){hint}")
    data, node = read_yaml(path)
    definition: GenerateTask | PythonTask = parse(TypeAdapter(TaskDefinition), _substitute(data, path), str(path), node)
    return LoadedTask(definition, path.parent)


def read_yaml(path: Path) -> tuple[Any, Node | None]:
    """Plain values and the node tree (for line numbers) of a YAML mapping.

    Raises:
        UserError: the file cannot be read, is no YAML, holds duplicate keys or tags, or is no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        data = YAML(typ="safe", pure=True).load(text)
        node = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark
        where = f":{mark.line + 1}" if mark is not None else ""
        raise UserError(f"{path}{where}: {str(error.problem).splitlines()[0]}") from None
    except (YAMLError, ValueError) as error:
        raise UserError(f"{path}: {str(error).splitlines()[0]}") from None
    if not isinstance(data, dict):
        found = "nothing" if data is None else f"a {type(data).__name__}"
        raise UserError(f"{path}: expected keys with values, found {found}")
    return data, node


def parse(adapter: TypeAdapter[_Parsed], data: Any, source: str, node: Node | None = None) -> _Parsed:
    """Validate `data`; all faults come together in one `UserError`, a line each."""
    try:
        return adapter.validate_python(data)
    except ValidationError as error:
        faults = [_explain(fault, data, source, node) for fault in error.errors(include_url=False)]
        raise UserError("\n".join(dict.fromkeys(faults))) from None


def _explain(fault: ErrorDetails, data: Any, source: str, node: Node | None) -> str:
    """One line: file, line, key, what is wrong, what was found, the nearest key for a typo."""
    location = _location_in(data, fault["loc"])
    line = _line(node, location)
    where = f"{source}:{line}" if line else source
    key = ".".join(map(str, location)) or "recipe"
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        allowed = _allowed_keys(fault["loc"])
        message = f"unknown key{_nearest(str(location[-1]), allowed)}"
        if allowed:
            message += f"; allowed are {', '.join(allowed)}"
        return f"{where}: {key}: {message}"
    if fault["type"] == "missing":
        return f"{where}: {key}: this key is required"
    if fault["type"] == "value_error":
        return f"{where}: {message}" if not location else f"{where}: {key}: {message}"
    message = message[0].lower() + message[1:]
    found = repr(fault["input"])
    return f"{where}: {key}: {message}; found {found if len(found) <= 60 else found[:57] + '...'}"


def _location_in(data: Any, location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """`location` without the names of union members that pydantic puts in: only steps that exist in the data."""
    steps: list[int | str] = []
    for place, step in enumerate(location):
        inside = (isinstance(data, Mapping) and step in data) or (
            isinstance(data, Sequence) and not isinstance(data, str) and isinstance(step, int)
        )
        if inside:
            steps.append(step)
            data = data[step]
        elif place == len(location) - 1 and isinstance(data, Mapping):
            steps.append(step)
    return tuple(steps)


def _allowed_keys(location: tuple[int | str, ...]) -> list[str]:
    """The keys allowed where `location` points, read off the schema."""
    for model in (Recipe, GenerateTask, PythonTask):
        allowed = _fields_at(model, location[:-1])
        if allowed:
            return allowed
    return []


def _fields_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Follow field names and union tags through the JSON Schema of `model`."""
    schema = model.model_json_schema()
    definitions = schema.get("$defs", {})

    def resolve(part: dict[str, Any]) -> dict[str, Any]:
        return definitions[part["$ref"].rsplit("/", 1)[-1]] if "$ref" in part else part

    current = [schema]
    for step in location:
        following = []
        for part in current:
            if isinstance(step, int) and "items" in part:
                following.append(part["items"])
            elif step in part.get("properties", {}):
                following.append(part["properties"][step])
            elif isinstance(part.get("additionalProperties"), dict):
                following.append(part["additionalProperties"])
            else:  # the name or tag of a union's member
                tagged = part.get("discriminator", {}).get("mapping", {}).get(step)
                if tagged is not None:
                    following.append({"$ref": tagged})
                elif part.get("title") == step:
                    following.append(part)
        current = [resolve(option) for part in following for option in part.get("anyOf", part.get("oneOf", [part]))]
        current += [part for part in following if "discriminator" in part]
    return [key for part in current for key in part.get("properties", {})]


def _nearest(word: str, known: Sequence[str]) -> str:
    matches = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def _line(node: Node | None, location: Sequence[int | str]) -> int | None:
    """The line, from 1, of the deepest part of `location` that the file states."""
    line = None
    for step in location:
        if isinstance(node, MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == str(step)), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = node.start_mark.line + 1
    return line


def _override(data: dict[str, Any], override: str) -> None:
    """Apply one `key.path=value`; list places are numbers."""
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise UserError(f"--set {override}: write key.path=value")
    *parents, last = path.split(".")
    part: Any = data
    for step in parents:
        if isinstance(part, list) and step.isdigit() and int(step) < len(part):
            part = part[int(step)]
        elif isinstance(part, dict):
            part = part.setdefault(step, {})
        else:
            raise UserError(f"--set {override}: there is no {step!r} to set {last!r} in")
    value = YAML(typ="safe", pure=True).load(text) if text else None
    if isinstance(part, list) and last.isdigit() and int(last) < len(part):
        part[int(last)] = value
    elif isinstance(part, dict):
        part[last] = value
    else:
        raise UserError(f"--set {override}: {'.'.join(parents)} holds no keys")


def _substitute(value: Any, path: Path) -> Any:
    """Replace `${VAR}` and `${VAR:-default}` in every text by environment variables."""
    if isinstance(value, dict):
        return {key: _substitute(item, path) for key, item in value.items()}
    if isinstance(value, list):
        return [_substitute(item, path) for item in value]
    if not isinstance(value, str):
        return value

    def lookup(match: re.Match[str]) -> str:
        name, default = match.groups()
        found = os.environ.get(name, default)
        if found is None:
            raise UserError(f"{path}: ${{{name}}} is not set; set the environment variable, or the key with --set")
        return found

    return _VARIABLE.sub(lookup, value)


def _anchor(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with model paths that exist beside the recipe file made independent of the current directory."""

    def anchored(reference: str) -> str:
        parts = []
        for part in reference.split("+"):
            path, at, revision = part.partition("@")
            local = folder / path
            parts.append(f"{local.resolve() if local.exists() else path}{at}{revision}")
        return "+".join(parts)

    return recipe.model_copy(
        update={
            "base": anchored(recipe.base),
            "experts": {name: anchored(reference) for name, reference in recipe.experts.items()},
        }
    )
