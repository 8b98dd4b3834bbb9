"""Limits of YAML: a short text can stand for gigabytes (aliases, merge keys), or be nested too deeply to be read."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ruamel.yaml import YAML
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, NodeEvent, ScalarEvent

_LONGEST = 2**20  # characters of a text
_MOST_VALUES = 50_000  # with aliases and merge keys written out
_DEEPEST = 100
_LONGEST_NUMBER = 400  # characters
_NUMBER = re.compile(r"[-+.0-9][-+.0-9a-fA-FoxOX_:]*")


class YamlLimitError(Exception):
    """A text exceeds a limit. line: where, from 1; None if it is the text itself."""

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem)
        self.line = line


@dataclass
class _Size:
    """Number of values in a value, itself included, and its depth. anchor: its name for aliases."""

    anchor: str | None
    values: int = 1
    depth: int = 1

    def contain(self, other: _Size) -> None:
        self.values += other.values
        self.depth = max(self.depth, 1 + other.depth)


def require_bounded(text: str) -> None:
    """Check a YAML text before values are made of it.

    Raises:
        YamlLimitError: it is too long, stands for too many values, or is nested too deeply; or it contains itself.
        ruamel.yaml.error.YAMLError: it is not YAML.
    """
    if len(text) > _LONGEST:
        raise YamlLimitError(f"{len(text):,} characters; at most {_LONGEST:,}")
    known: dict[str, _Size | None] = {}  # None: not closed yet
    opened: list[_Size] = []
    total = 0
    for event in YAML(typ="safe", pure=True).parse(text):
        line = event.start_mark.line + 1
        if isinstance(event, CollectionEndEvent):
            value = opened.pop()
        elif isinstance(event, AliasEvent):
            if event.anchor in known and known[event.anchor] is None:
                raise YamlLimitError(f"the alias *{event.anchor} is inside its own value; write the value out", line)
            value = known.get(event.anchor) or _Size(None)
            total += value.values
        elif isinstance(event, ScalarEvent):
            _require_short_number(event, line)
            value = _Size(event.anchor)
            total += 1
        elif isinstance(event, NodeEvent):
            opened.append(_Size(event.anchor))
            known |= {event.anchor: None} if event.anchor else {}
            total += 1
            value = None
        else:
            continue
        if total > _MOST_VALUES:
            raise YamlLimitError(f"more than {_MOST_VALUES:,} values, with aliases written out; shorten it", line)
        if len(opened) + (0 if value is None else value.depth) > _DEEPEST:
            raise YamlLimitError(f"nested too deeply: more than {_DEEPEST} levels", line)
        if value is not None:
            known |= {value.anchor: value} if value.anchor else {}
            if opened:
                opened[-1].contain(value)


def _require_short_number(event: ScalarEvent, line: int) -> None:
    value = str(event.value)
    if event.implicit[0] and len(value) > _LONGEST_NUMBER and _NUMBER.fullmatch(value):
        raise YamlLimitError(
            f"a number of {len(value):,} characters; at most {_LONGEST_NUMBER}; write a text in quotes", line
        )
