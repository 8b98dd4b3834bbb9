"""Environment variables in recipes and task files: replaced for use, and put back wherever values are stored.

A configuration has the values. The texts with `${NAME}` belong to the configuration that has the key, so that they
stay with it when it is copied or moved to another place in a recipe.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cycleqd_merge.config.validation_errors import Location
from cycleqd_merge.config.values import StrictConfig
from cycleqd_merge.errors import RecipeError
from cycleqd_merge.redaction import is_credential, note_variable

_VARIABLE = re.compile(r"(\$?)\$\{(\w+)(?::-([^}]*))?\}")
_SHORTEST_PART = 4  # characters of a value that is put back inside a text that was changed


@dataclass(frozen=True)
class Written:
    """A text as its author wrote it.

    text: with `${NAME}`. value: with the variables replaced. parts: each `${...}` with its value. environment: whether
    a value comes from the environment, and not only from defaults. missing: the variable that has no value, if any.
    published: whether the text is from a published run, in which variables never get values.
    """

    text: str
    value: str
    parts: tuple[tuple[str, str], ...]
    environment: bool
    missing: str | None = None
    published: bool = False

    def put_back(self, leaf: str) -> str:
        """The text for `leaf`, which is the value or was made from it, such as an absolute path."""
        if leaf == self.value:
            return self.text
        if self.value and leaf.endswith(self.value):
            return _literal(leaf.removesuffix(self.value)) + self.text
        result = ""
        for form, value in self.parts:
            before, found, after = leaf.partition(value) if len(value) >= _SHORTEST_PART else (leaf, "", "")
            if found:
                result, leaf = result + _literal(before) + form, after
        return result + _literal(leaf)


def _literal(text: str) -> str:
    """A text without variables, as it is written next to some."""
    return _VARIABLE.sub(lambda found: f"${found[0]}", text)


def expanded(text: str) -> Written | str:
    """A text with its variables replaced; just the text if it has none. `$${` is a literal `${`.

    A variable without a value stays as it is.
    """
    parts: list[tuple[str, str]] = []
    environment, missing = False, None

    def value_of(match: re.Match[str]) -> str:
        nonlocal environment, missing
        escaped, name, default = match.groups()
        if escaped:
            return match.group().removeprefix("$")
        stated = os.environ.get(name)
        found = stated or default  # as in a shell, an empty variable takes the default too
        environment |= bool(stated)
        note_variable(name)
        if found is None and stated is None:
            missing = missing or name
            return match.group()
        parts.append((match.group(), found or ""))
        return found or ""

    value = _VARIABLE.sub(value_of, text)
    return Written(text, value, tuple(parts), environment, missing) if names_in(text) else value


def expand_variables(
    data: Any,
    where: Callable[[Location], str],
    texts: dict[Location, Written],
    only: Collection[Location] | None = None,
) -> Any:
    """Plain values with variables replaced in their texts. texts: receives the texts that have variables, by location.

    where: names a location in errors. only: the locations of texts with variables; by default any text may have some.

    Raises:
        RecipeError: a variable may hold a credential, which its key does not need.
    """

    def walk(value: Any, at: Location) -> Any:
        if isinstance(value, dict):
            return {key: walk(item, (*at, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [walk(item, (*at, place)) for place, item in enumerate(value)]
        if not isinstance(value, str) or (only is not None and at not in only):
            return value
        found = expanded(value)
        if isinstance(found, str):
            return found
        if not _may_hold_credentials(at):
            require_no_credential(found.text, where(at), at)
        texts[at] = found
        return found.value

    return walk(data, ())


def names_in(text: str) -> list[str]:
    """The variables in a text."""
    return [match[2] for match in _VARIABLE.finditer(text) if not match[1]]


def _may_hold_credentials(at: Location) -> bool:
    """Whether a key is for values that only its user's own code or the engine's process receives."""
    owners = (at[place - 1] if place else "task" for place, step in enumerate(at) if step == "options")
    return at[:2] == ("engine", "environment") or any(owner in ("strategy", "task", "scorer") for owner in owners)


def require_no_credential(text: str, where: str, at: Location) -> None:
    """Check that a text names no variable that may hold a credential. where, at: its place, for the message.

    Raises:
        RecipeError: it does.
    """
    for name in names_in(text):
        if is_credential(name, os.environ.get(name, "")):
            key = ".".join(map(str, at))
            raise RecipeError(
                f"{where}: {key}: ${{{name}}} may hold a credential, which this key does not need; remove it (the Hub "
                "token is read from the environment), or use a variable whose name and value are no credential's"
            )


def require_values(texts: Mapping[Location, Written], where: Callable[[Location], str]) -> None:
    """Check that every variable has a value.

    Raises:
        RecipeError: one has none; the first is named.
    """
    for at, written in texts.items():
        if written.missing is None:
            continue
        key = ".".join(map(str, at))
        if written.published:
            raise RecipeError(
                f"{where(at)}: {key}: the value of ${{{written.missing}}} was not published; give the key a value with "
                "--set"
            )
        raise RecipeError(
            f"{where(at)}: {key}: ${{{written.missing}}} is not set; set the environment variable, "
            "or the key with --set"
        )


def attach(config: StrictConfig, texts: Mapping[Location, Written]) -> None:
    """Give each text with variables to the configuration that has its key. Values that are not texts stay as they are:
    numbers and switches."""
    for location, written in texts.items():
        value: Any = config
        owner, at = config, location
        for place, step in enumerate(location):
            if isinstance(value, StrictConfig):
                owner, at = value, (_field(value, step), *location[place + 1 :])
            value = _below(value, step)
        if isinstance(value, str):
            owner._written = {**owner._written, at: written}


def texts_of(config: Any, at: Location = ()) -> Iterator[tuple[Location, Written]]:
    """All texts with variables in a configuration, by location."""
    if isinstance(config, StrictConfig):
        for inner, written in config._written.items():
            yield (*at, *inner), written
        for name in type(config).model_fields:
            yield from texts_of(getattr(config, name), (*at, name))
    elif isinstance(config, dict):
        for key, each in config.items():
            yield from texts_of(each, (*at, key))
    elif isinstance(config, list | tuple):
        for place, each in enumerate(config):
            yield from texts_of(each, (*at, place))


def keep_texts(config: Any, keep: Callable[[Location, Written], bool], at: Location = ()) -> None:
    """Forget the other texts with variables: their values are what is stored."""
    if isinstance(config, StrictConfig):
        config._written = {inner: text for inner, text in config._written.items() if keep((*at, *inner), text)}
        for name in type(config).model_fields:
            keep_texts(getattr(config, name), keep, (*at, name))
    elif isinstance(config, dict):
        for key, each in config.items():
            keep_texts(each, keep, (*at, key))
    elif isinstance(config, list | tuple):
        for place, each in enumerate(config):
            keep_texts(each, keep, (*at, place))


def carry(old: StrictConfig, new: StrictConfig) -> None:
    """Give the texts with variables of `old` to `new`, where both have the same value."""
    attach(new, {at: text for at, text in texts_of(old) if leaf(old, at) == leaf(new, at) is not None})


def put_back(config: StrictConfig, data: Any) -> tuple[Any, list[Location]]:
    """Plain values of a configuration with variables instead of their values, and the locations of these texts."""
    locations: list[Location] = []
    for at, written in texts_of(config):
        value = leaf(data, at)
        if isinstance(value, str) and (text := written.put_back(value)) != _literal(value):
            data = with_leaf(data, at, text)
            locations.append(at)
    return data, locations


def published_text(text: str) -> Written:
    """A text from a published run, whose variables have no values on this machine."""
    return Written(text, text, (), False, next(iter(names_in(text)), None), True)


def without_values(data: Any, texts: dict[Location, Written], at: Location = ()) -> Any:
    """Plain values of a published file, whose variables have no values. texts: receives the texts that have some."""
    if isinstance(data, dict):
        return {key: without_values(item, texts, (*at, key)) for key, item in data.items()}
    if isinstance(data, list):
        return [without_values(item, texts, (*at, place)) for place, item in enumerate(data)]
    if not isinstance(data, str):
        return data
    if names_in(data):
        texts[at] = published_text(data)
        return data
    return _VARIABLE.sub(lambda found: found[0].removeprefix("$"), data)


def escaped(data: Any, places: Collection[Location], at: Location = ()) -> Any:
    """Plain values as a file writes them: with `$${` for a literal `${` where a text has no variables."""
    if isinstance(data, dict):
        return {key: escaped(item, places, (*at, key)) for key, item in data.items()}
    if isinstance(data, list):
        return [escaped(item, places, (*at, place)) for place, item in enumerate(data)]
    return _literal(data) if isinstance(data, str) and at not in places else data


def leaf(value: Any, location: Location) -> Any:
    """The value at a location of a configuration or plain values; None if there is none."""
    for step in location:
        value = _below(value, step)
    return value


def _below(value: Any, step: int | str) -> Any:
    if isinstance(value, StrictConfig):
        return getattr(value, _field(value, step), None)
    if isinstance(value, Mapping):
        return value.get(step)
    if isinstance(value, list | tuple) and isinstance(step, int) and step < len(value):
        return value[step]
    return None


def _field(config: StrictConfig, key: int | str) -> str:
    """The field that a key of a file sets, which may have a deprecated name."""
    for name, field in type(config).model_fields.items():
        if key in getattr(field.validation_alias, "choices", ()):
            return name
    return str(key)


def with_leaf(data: Any, location: Location, value: Any) -> Any:
    """A copy of plain values with a different value at a location."""
    if not location:
        return value
    copied: Any = dict(data) if isinstance(data, dict) else list(data)
    copied[location[0]] = with_leaf(data[location[0]], location[1:], value)
    return copied


def with_texts(data: Any, texts: Mapping[Location, Written]) -> Any:
    """Plain values with the texts as they were written."""
    for at, written in texts.items():
        if isinstance(leaf(data, at), str):
            data = with_leaf(data, at, written.text)
    return data
