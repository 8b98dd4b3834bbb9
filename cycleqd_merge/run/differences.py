"""Differences between the identities of two runs, value by value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cycleqd_merge.journal.log import Event

_ORDERED = ("experts", "tasks", "strategy.grid")
"""Mappings whose order counts, also inside `strategy.grid`: genomes go by the order of the experts, scores by that of
the tasks, and static merges are listed in the order of their grid. JSON keeps the order of a mapping's keys."""

ORDER = "order of "
"""The beginning of a line about the order of names."""


def differences(recorded: Event, wanted: Event) -> list[str]:
    """One line for every value of the identity that differs, as `key: recorded -> wanted`, and for every order."""
    return list(_walk("", recorded, wanted))


def _walk(prefix: str, old: Any, new: Any) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        if prefix in _ORDERED or prefix.startswith("strategy.grid."):
            yield from order_difference(prefix, list(old), list(new))
        for key in dict.fromkeys((*old, *new)):
            yield from _walk(f"{prefix}.{key}" if prefix else key, old.get(key), new.get(key))
    elif old != new:
        yield f"{prefix}: {old!r} -> {new!r}"


def order_difference(what: str, old: list[str], new: list[str]) -> list[str]:
    """A line with the names in both orders if those that both lists have are in different orders; else no line."""
    if [name for name in old if name in new] == [name for name in new if name in old]:
        return []
    return [f"{ORDER}{what}: {', '.join(old)} -> {', '.join(new)}"]
