"""From a YAML file to a validated recipe or task definition, with errors that name file, line and key."""

from __future__ import annotations

import copy
import functools
import io
import os
from collections.abc import Collection, Mapping, Sequence
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
from cycleqd_merge.config.presets import first_versions, with_fixed_presets, without_preset_keys
from cycleqd_merge.config.recipe import DEPRECATED_KEYS, Recipe, TaskConfig, reference_name, task_name
from cycleqd_merge.config.tasks import TaskDefinitionConfig
from cycleqd_merge.config.validation_errors import Location, Source, explain, locations, short_repr, suggestion
from cycleqd_merge.config.values import REFERENCE_FORM, UNEXPANDED, StrictConfig
from cycleqd_merge.config.variables import (
    Written,
    attach,
    carry,
    escaped,
    expand_variables,
    leaf,
    published_text,
    put_back,
    require_values,
    texts_of,
    with_leaf,
    with_texts,
    without_values,
)
from cycleqd_merge.config.yaml_limits import YamlLimitError, require_bounded
from cycleqd_merge.deprecation import warn_deprecated
from cycleqd_merge.errors import RecipeError, first_line
from cycleqd_merge.redaction import redacted

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
    recipe = _parse_published(data, source) if published else _parse_written(TypeAdapter(Recipe), data, source)
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
    recipe = _with_references(anchored(parse(TypeAdapter(Recipe), data, source, recipe), Path()), source)
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


@functools.cache
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
        f"{source.where(location)}: {'.'.join(map(str, location))}: {REFERENCE_FORM}; "
        f"found {short_repr(written_leaf(recipe, location))}"
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
    return recipe if fixed == stated else parse(TypeAdapter(Recipe), fixed, "recipe", recipe)


def load_task(use: TaskConfig) -> TaskDefinitionConfig:
    """The definition of a recipe's task: from its own file, shipped with this package, or written in the recipe.

    Raises:
        RecipeError: there is no such file or shipped definition, or it is not valid.
    """
    if not isinstance(use.task, str):
        return use.task
    require_values(dict(texts_of(use)), lambda _: f"task {task_name(use)}")
    shipped = sorted(shipped_tasks())
    path = DEFINITIONS / f"{use.task}.yaml" if use.task in shipped else Path(use.task)  # a file's path is absolute
    if not path.is_file():
        hint = suggestion(Path(use.task).name.removesuffix(".yaml").removesuffix(".yml"), shipped)
        raise RecipeError(f"task {use.task!r}: no such file or shipped task; shipped: {', '.join(shipped)}{hint}")
    data, node = read_yaml(path)
    source = Source(str(path), node)
    definition: TaskDefinitionConfig = _parse_written(TypeAdapter(TaskDefinitionConfig), data, source)
    return anchored_task(definition, path.parent)


def read_yaml(path: Path) -> tuple[Any, Node | None]:
    """Plain values and the node tree (for line numbers) of a YAML mapping.

    Raises:
        RecipeError: the file cannot be read, is not YAML, has duplicate keys or tags, exceeds a limit of size or
            nesting, or is not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise RecipeError(f"{path}: not a text file") from None
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        require_bounded(text)
        data = YAML(typ="safe", pure=True).load(text)
        node = YAML(typ="safe", pure=True).compose(text)
    except YamlLimitError as error:
        place = str(path) if error.line is None else f"{path}:{error.line}"
        raise RecipeError(f"{place}: {error}") from None
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


def parse(adapter: TypeAdapter[_Parsed], data: Any, source: str | Source, like: StrictConfig | None = None) -> _Parsed:
    """Validate `data`; one `RecipeError` reports every mistake, one per line.

    source: where the data comes from, or just its name in messages. like: the configuration that the data was made
    from, whose variables the result keeps where values are the same.
    """
    texts = {} if like is None else dict(texts_of(like))
    parsed = _validated(adapter, data, source, texts)
    if like is not None and isinstance(parsed, StrictConfig):
        carry(like, parsed)
    return parsed


def _validated(
    adapter: TypeAdapter[_Parsed], data: Any, source: str | Source, texts: Mapping[Location, Written]
) -> _Parsed:
    """Validate values whose variables are replaced; messages show the texts with the variables."""
    context = UNEXPANDED if any(text.missing is not None for text in texts.values()) else None
    try:
        return adapter.validate_python(data, context=context)
    except ValidationError as error:
        written = source if isinstance(source, Source) else Source(source)
        shown = {at: text for at, text in texts.items() if leaf(data, at) == text.value}
        errors = explain(error.errors(include_url=False), data, adapter.json_schema(), written, with_texts(data, shown))
        raise RecipeError(redacted("\n".join(errors))) from None


def _parse_written(adapter: TypeAdapter[_Parsed], data: Any, source: Source) -> _Parsed:
    """Validate `data` with its variables replaced; the result knows which texts had some.

    Raises:
        RecipeError: see `parse`; a variable has no value, or may hold a credential that its key does not need.
    """
    texts: dict[Location, Written] = {}
    values = expand_variables(data, source.where, texts)
    require_values(texts, source.where)
    parsed = _validated(adapter, values, source, texts)
    if texts and isinstance(parsed, StrictConfig):
        attach(parsed, _stored_as_written(adapter, values, texts))
    return parsed


_STEERING = {"groups", "methods", "grid"}
"""Keys whose values appear in the results of a run: labels of groups, steps of children."""


def _parse_published(data: Any, source: Source) -> Recipe:
    """Validate a stranger's recipe, in which variables never get values."""
    texts: dict[Location, Written] = {}
    values = without_values(data, texts)
    recipe = _validated(TypeAdapter(Recipe), values, source, texts)
    attach(recipe, texts)
    return recipe


def _stored_as_written(
    adapter: TypeAdapter[Any], values: Any, texts: Mapping[Location, Written]
) -> dict[Location, Written]:
    """The texts that stay valid with `${NAME}` in them; others are recorded with their values.

    Numbers, switches, names and choices from a list are such others: they steer a run's replay.
    """
    kept = {at: text for at, text in texts.items() if "options" in at or not _STEERING.intersection(at)}
    values = _with_task_names(values, kept)
    while kept:
        try:
            adapter.validate_python(with_texts(values, kept), context=UNEXPANDED)
        except ValidationError as error:
            places = locations(error.errors(include_url=False), values)
            wrong = [at for at in kept if any(at[: len(each)] == each or each[: len(at)] == at for each in places)]
            if not wrong:
                return kept
            kept = {at: text for at, text in kept.items() if at not in wrong}
        else:
            return kept
    return kept


def _with_task_names(values: Any, texts: Mapping[Location, Written]) -> Any:
    """A recipe's keys with a name for each task whose file is named with variables, as `stated_recipe` records them."""
    for at in [at for at in texts if len(at) == 3 and at[::2] == ("tasks", "task")]:
        use = leaf(values, at[:2])
        values = with_leaf(values, at[:2], {"name": reference_name(use["task"]), **use})
    return values


def stated(config: StrictConfig, **options: Any) -> tuple[Any, list[Location]]:
    """The keys that a configuration states, as they are stored: with `${NAME}` instead of the values of variables; and
    the locations of the texts that have variables. options: of pydantic's `model_dump`."""
    return put_back(config, config.model_dump(mode="json", exclude_unset=True, **options))


def recipe_text(recipe: Recipe, others: Mapping[str, Any]) -> str:
    """A recipe as a file: with `${NAME}` instead of the values of variables. others: further keys."""
    keys, places = stated(recipe)
    return yaml_text({**escaped(keys, places), **others})


def stated_recipe(recipe: Recipe) -> dict[str, Any]:
    """The keys of a `session` event that record a recipe; `recorded_recipe` is the inverse.

    `variables` has the locations of texts that are expanded when the event is read, `unpublished` of those that came
    from a published run.
    """
    keys, places = stated(recipe)
    for place, use in enumerate(recipe.tasks):
        if ("tasks", place, "task") in places:  # a text with variables names no task
            keys["tasks"][place].setdefault("name", task_name(use))
    foreign = [at for at, text in texts_of(recipe) if text.published]
    own = [list(at) for at in places if at not in foreign]
    unpublished = [list(at) for at in places if at in foreign]
    return {
        "recipe": keys,
        **({"variables": own} if own else {}),
        **({"unpublished": unpublished} if unpublished else {}),
    }


def recorded_recipe(session: Mapping[str, Any], where: str, published: bool = False) -> Recipe:
    """The recipe of a `session` event, with the variables of this environment; those that are not set stay as they are.

    published: it is a stranger's, in which variables never get values; so is one that is marked as foreign.

    Raises:
        RecipeError: the recipe is not valid; `where` names it.
    """
    data = with_fixed_presets(session["recipe"], first_versions())
    own, unpublished = (_locations(session.get(key, [])) for key in ("variables", "unpublished"))
    if published or data.get("foreign") is not None:
        own, unpublished = [], [*own, *unpublished]
    if not own and not unpublished:
        return parse(TypeAdapter(Recipe), data, where)
    texts: dict[Location, Written] = {}
    values = expand_variables(data, Source(where).where, texts, own)
    texts |= published_texts(data, unpublished)
    recipe = _validated(TypeAdapter(Recipe), values, where, texts)
    attach(recipe, texts)
    return recipe


def published_texts(data: Any, places: Collection[Location]) -> dict[Location, Written]:
    """The texts at these locations, whose variables have no values on this machine."""
    found = {at: text for at in places if isinstance(text := leaf(data, at), str)}
    return {at: published_text(text) for at, text in found.items()}


def _locations(recorded: Any) -> list[Location]:
    """Locations as a journal has them; what is none is left out."""
    lists = recorded if isinstance(recorded, list) else []
    return [tuple(at) for at in lists if isinstance(at, list) and all(isinstance(step, int | str) for step in at)]


def require_variables(recipe: Recipe, keys: Collection[str] = ()) -> None:
    """Check that every variable in a recipe has a value. keys: only in these keys of the recipe.

    Raises:
        RecipeError: one has none.
    """
    texts = {at: text for at, text in texts_of(recipe) if not keys or at[0] in keys}
    require_values(texts, lambda _: recipe.output)


def written_leaf(recipe: Recipe, location: Location) -> Any:
    """A recipe's value as it was written."""
    value = leaf(recipe, location)
    written = dict(texts_of(recipe)).get(location)
    return value if written is None or not isinstance(value, str) else written.put_back(value)


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
        require_bounded(text)
        value = YAML(typ="safe", pure=True).load(text) if text else None
    except MarkedYAMLError as error:
        raise RecipeError(f"--set {_shown(override)}: {_problem(error)}") from None
    except (YamlLimitError, YAMLError, ValueError) as error:
        raise RecipeError(f"--set {_shown(override)}: {first_line(error)}") from None
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


def _shown(override: str) -> str:
    return override if len(override) <= 200 else f"{override[:200]}..."


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
