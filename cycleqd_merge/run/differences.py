"""Differences between the identities of two runs, value by value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cycleqd_merge.journal.log import Event


def differences(recorded: Event, wanted: Event) -> list[str]:
    """One line for every value of the identity that differs, as `key: recorded -> wanted`."""
    return [f"{key}: {old!r} -> {new!r}" for key, old, new in _walk("", recorded, wanted)]


def _walk(prefix: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys((*old, *new)):
            yield from _walk(f"{prefix}.{key}" if prefix else key, old.get(key), new.get(key))
    elif old != new:
        yield prefix, old, new
