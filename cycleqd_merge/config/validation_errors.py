"""Errors of pydantic as one line each: file, line, key, what is wrong, what was found, what is allowed."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import ErrorDetails
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

Location = tuple[int | str, ...]
Schema = dict[str, Any]

_EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "keys with values",
    "model_type": "keys with values",
    "model_attributes_type": "keys with values",
    "union_tag_not_found": "keys with values",
}
_LIMITS = {
    "greater_than": "must be above {gt:,.10g}",
    "greater_than_equal": "must be at least {ge:,.10g}",
    "less_than": "must be below {lt:,.10g}",
    "less_than_equal": "must be at most {le:,.10g}",
    "too_short": "requires {min_length} or more entries",
    "too_long": "allows {max_length} or fewer entries",
}
_LONGEST = 60  # characters of a value that a line shows


class KeyProblem(ValueError):
    """A problem with a combination of keys; `at` is the path from the model that raises it to the key to report."""

    def __init__(self, message: str, *at: int | str) -> None:
        super().__init__(message)
        self.at = at


@dataclass(frozen=True)
class Source:
    """The source of values: a file (its node tree has the lines), and `--set` texts by the keys that they set."""

    name: str
    node: Node | None = None
    settings: Mapping[Location, str] = field(default_factory=dict)

    def where(self, location: Location) -> str:
        """File and line of the deepest part of `location` that is in the file, or the `--set` text that set it."""
        lines = self.lines(location)
        for set_at, text in self.settings.items():
            made = set_at[: len(location)] == location and len(lines) <= len(location)
            if made or location[: len(set_at)] == set_at:
                return f"--set {text}"
        return f"{self.name}:{lines[-1]}" if lines else self.name

    def lines(self, location: Location) -> list[int]:
        """Line numbers, from 1, of the start of the file and of every step of `location` that is in the file."""
        node = self.node
        lines = [] if node is None else [node.start_mark.line + 1]
        for step in location:
            if isinstance(node, MappingNode):
                found = next(((key, value) for key, value in node.value if key.value == str(step)), None)
                if found is None:
                    break
                (key, node) = found
                lines.append(key.start_mark.line + 1)
            elif isinstance(node, SequenceNode) and isinstance(step, int) and step < len(node.value):
                node = node.value[step]
                lines.append(node.start_mark.line + 1)
        return lines


def locations(details: Sequence[ErrorDetails], data: Any) -> list[Location]:
    """The place of each error in the data."""
    return [_location_in(data, detail) for detail in details]


def explain(details: Sequence[ErrorDetails], data: Any, schema: Schema, source: Source, shown: Any = None) -> list[str]:
    """One line per error, in the order of the file. `schema` is the JSON Schema that `data` should satisfy.

    shown: the data as lines may quote it, with variables instead of their values.
    """
    located = list(zip(locations(details, data), details, strict=True))
    if shown is not None:
        located = [(location, _quoting(shown, location, detail)) for location, detail in located]
        data = shown
    meant = {
        (*location[:-1], _nearest(location[-1], _keys(schema, data, location[:-1])))
        for location, detail in located
        if detail["type"] == "extra_forbidden"
    }
    lines = {
        f"{source.where(location)}: {_explain(location, detail, data, schema)}": source.lines(location)[-1:]
        for location, detail in located
        if not (detail["type"] == "missing" and location in meant)  # a mistyped key is not also a missing one
    }
    return sorted(lines, key=lines.__getitem__)


def _quoting(shown: Any, location: Location, detail: ErrorDetails) -> ErrorDetails:
    """The error with the value that its line may quote."""
    try:
        value = _at(shown, location)
    except (KeyError, IndexError, TypeError):
        return detail
    text = isinstance(detail["input"], str) and isinstance(value, str)
    return {**detail, "input": value} if text else detail


def _explain(location: Location, detail: ErrorDetails, data: Any, schema: Schema) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    found = f"; found {short_repr(detail['input'])}"
    if kind == "extra_forbidden":
        allowed = _keys(schema, data, location[:-1])
        if location[-1] in allowed:
            others = ", ".join(f"`{key}`" for key in _at(data, location[:-1]) if key != location[-1])
            return _line(location, f"cannot be combined with {others}")
        return _line(location, f"unknown key{suggestion(location[-1], allowed)}{_allowed(allowed)}")
    if kind == "missing":
        if isinstance(location[-1], int):
            return _line(location[:-1], f"too few entries; found {short_repr(_at(data, location[:-1]))}")
        return _line(location, "this key is required")
    if _is_of_kind(detail):
        return _explain_kind(location, data, schema)
    if kind == "value_error":
        return _line(location, f"{context['error']}{'' if isinstance(detail['input'], Mapping) else found}")
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", context["expected"])
        keys = _keys(schema, data, location)
        allowed += [f"the keys {', '.join(keys)}"] if keys else []
        return _line(location, f"not an allowed value{suggestion(detail['input'], allowed)}{_allowed(allowed)}{found}")
    if kind == "invalid_key" or detail["loc"][-1] == "[key]":
        return _line(location, f"this key must be text; put it in quotes{found}")
    if kind in _EXPECTED:
        return _line(location, f"expected {_EXPECTED[kind]}{found}")
    if kind in _LIMITS:
        return _line(location, f"{_LIMITS[kind].format(**context)}{found}")
    return _line(location, f"{detail['msg'][0].lower()}{detail['msg'][1:]}{found}")


def _is_of_kind(detail: ErrorDetails) -> bool:
    """Whether the error is about the `kind` that selects a union's member: missing, or unknown."""
    return detail["type"] in ("union_tag_invalid", "union_tag_not_found") and isinstance(detail["input"], Mapping)


def _explain_kind(location: Location, data: Any, schema: Schema) -> str:
    alternatives = _schemas_at(schema, data, location[:-1], None)
    kinds = [part["properties"]["kind"]["const"] for part in alternatives if "kind" in part.get("properties", {})]
    value = _at(data, location[:-1])
    if "kind" not in value:
        return _line(location, f"this key is required{_allowed(kinds)}")
    stated = value["kind"]
    return _line(location, f"no such kind{suggestion(stated, kinds)}{_allowed(kinds)}; found {short_repr(stated)}")


def _line(location: Location, message: str) -> str:
    key = ".".join(map(str, location))
    return f"{key}: {message}" if key else message


def suggestion(word: Any, known: Iterable[str]) -> str:
    """A question to append to a message, if `word` looks like one of `known`."""
    nearest = _nearest(word, known)
    return f"; did you mean {nearest!r}?" if nearest else ""


def _nearest(word: Any, known: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.6)), None)


def _allowed(names: Sequence[str]) -> str:
    return f"; allowed: {', '.join(names)}" if names else ""


def short_repr(value: Any) -> str:
    """A value roughly as the user wrote it, shortened if it is long."""
    if value is None or isinstance(value, bool):
        text = json.dumps(value)
    else:
        text = repr(value) if isinstance(value, str | list | tuple | Mapping) else str(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def _location_in(data: Any, detail: ErrorDetails) -> Location:
    """The place of an error in the data: pydantic's location without the names of union members that it inserts."""
    steps: list[int | str] = []
    for step in detail["loc"]:
        places = data if isinstance(data, Mapping) else range(len(data)) if isinstance(data, list | tuple) else ()
        if step in places:
            steps.append(step)
            data = data[step]
    if detail["type"] == "missing":
        steps.append(detail["loc"][-1])
    elif _is_of_kind(detail):
        steps.append("kind")
    error = detail.get("ctx", {}).get("error")
    return (*steps, *error.at) if isinstance(error, KeyProblem) else tuple(steps)


def _at(data: Any, location: Location) -> Any:
    for step in location:
        data = data[step]
    return data


def _keys(schema: Schema, data: Any, location: Location) -> list[str]:
    """The keys allowed in the mapping at `location`, without deprecated ones."""
    alternatives = _schemas_at(schema, data, location, _at(data, location))
    properties = (item for part in alternatives for item in part.get("properties", {}).items())
    return list(dict.fromkeys(key for key, inner in properties if not inner.get("deprecated")))


def _schemas_at(schema: Schema, data: Any, location: Location, value: Any) -> list[Schema]:
    """The alternatives that the schema allows at `location` and that are most similar to `value`."""
    definitions = schema.get("$defs", {})

    def alternatives(part: Schema) -> list[Schema]:
        if "$ref" in part:
            return alternatives(definitions[part["$ref"].rsplit("/", 1)[-1]])
        options = part.get("anyOf", part.get("oneOf"))
        return [part] if options is None else [other for option in options for other in alternatives(option)]

    parts = alternatives(schema)
    for step in location:
        below = [inner for part in _nearest_to(data, parts) if (inner := _below(part, step)) is not None]
        parts, data = [other for inner in below for other in alternatives(inner)], data[step]
    return _nearest_to(value, parts)


def _below(part: Schema, step: int | str) -> Schema | None:
    if isinstance(step, int):
        return part.get("items")
    rest = (part.get("additionalProperties"), *part.get("patternProperties", {}).values())  # of the user's own names
    named = next((inner for inner in rest if isinstance(inner, dict)), None)
    inner: Schema | None = part.get("properties", {}).get(step, named)
    return inner


def _nearest_to(value: Any, parts: list[Schema]) -> list[Schema]:
    """Those of `parts` that share the `kind`, or else the most keys, with `value`."""

    def likeness(part: Schema) -> int:
        properties = part.get("properties", {})
        kind = properties.get("kind", {})
        if "const" in kind and value.get("kind", kind.get("default")) == kind["const"]:
            return len(value) + 1
        return sum(key in properties for key in value)

    if not isinstance(value, Mapping):
        return parts
    best = max(map(likeness, parts), default=0)
    return [part for part in parts if likeness(part) == best]
