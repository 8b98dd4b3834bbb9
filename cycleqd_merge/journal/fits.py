"""The fits that a run's journal names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def stated_fits(events: Iterable[Mapping[str, Any]]) -> list[str]:
    """The digests of all fits that a run has learned, or that its founders have; ascending.

    Every genome of the run has shares of these alone.
    """
    found: set[str] = set()
    for event in events:
        if event["event"] == "start":
            found |= founders_fits(event.get("seeds", []))
        if event["event"] == "fit":
            found.add(event["digest"])
    return sorted(found)


def founders_fits(founders: Iterable[Mapping[str, Any]]) -> set[str]:
    """The digests of the fits of founders, as a start event records them."""
    return {fit["digest"] for founder in founders for fit in founder["genome"].get("fits", [])}
