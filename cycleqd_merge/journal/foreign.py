"""The events of a run that somebody else published: what they may hold, and the mark that its recipe gets."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cycleqd_merge.config.origin import is_commit
from cycleqd_merge.errors import RecipeError, printable

PUBLISHED_FOLDER = "."
"""The folder that the session of a published run names."""
_KINDS = ("start", "session", "fit", "result", "bounds", "confirm", "measured")


def marked(events: list[dict[str, Any]], folder: Path, download: bool) -> list[dict[str, Any]]:
    """The events of the journal in `folder`, with the recipes of others marked as foreign.

    These are all if the journal is a download from the Hub, and else those of sessions that `push` wrote.
    """
    return [_marked(event, folder) if download or _is_published(event) else event for event in events]


def _is_published(event: Mapping[str, Any]) -> bool:
    return event.get("event") == "session" and event.get("folder") == PUBLISHED_FOLDER


def _marked(event: dict[str, Any], folder: Path) -> dict[str, Any]:
    if event.get("event") != "session" or not isinstance(event.get("recipe"), dict):
        return event
    here = os.path.abspath(folder)
    mark = {"folder": here, "own": [["output"]]}
    return {**event, "folder": here, "recipe": {**event["recipe"], "output": here, "foreign": mark}}


def require_plain(events: Sequence[Mapping[str, Any]], where: str) -> None:
    """Check the events of a published run, besides its recipe: known kinds, commits, and texts that cannot control a
    terminal. Numbers are checked when the run is replayed.

    Raises:
        RecipeError: an event holds something else; `where` and its line are named.
    """
    for line, event in enumerate(events, start=1):
        reason = _reason(event)
        if reason is not None:
            raise RecipeError(f"{where}:{line}: refused: {reason}")


def _reason(event: Mapping[str, Any]) -> str | None:
    if event.get("event") not in _KINDS:
        return f"unknown event {printable(str(event.get('event')))!r}"
    for text, in_recipe in _texts(event):
        allowed = "\n\r\t" if in_recipe else ""
        control = next((each for each in text if _controls(each) and each not in allowed), None)
        if control is not None:
            return f"a text with the control character {printable(control)}"
    if event["event"] == "start":
        revisions = event.get("revisions") or {}
        if not isinstance(revisions, dict) or not all(is_commit(sha) for sha in revisions.values()):
            return "`revisions` are not commits"
    return None


def _texts(value: Any, in_recipe: bool = False) -> Iterator[tuple[str, bool]]:
    """The texts in a value, keys included, and whether they are in a recipe, whose prompts have several lines."""
    if isinstance(value, str):
        yield value, in_recipe
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each, in_recipe)
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield str(key), False
            yield from _texts(each, in_recipe or key == "recipe")


def _controls(character: str) -> bool:
    """Control characters of ASCII and Latin-1, line and paragraph separators, and marks that reverse text."""
    code = ord(character)
    return code < 0x20 or 0x7F <= code < 0xA0 or 0x2028 <= code <= 0x202E or 0x2066 <= code <= 0x2069
