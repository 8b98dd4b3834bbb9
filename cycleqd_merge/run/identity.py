"""What makes two runs the same run: models, tasks with their rows, operators, seed and the number in flight."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from cycleqd_merge.journal.log import FORMAT as JOURNAL_FORMAT
from cycleqd_merge.journal.log import Event
from cycleqd_merge.tasks.protocol import Rows

ROWS: tuple[Rows, ...] = ("search", "confirm")

if TYPE_CHECKING:  # comparing identities needs no torch
    from cycleqd_merge.evaluation.materials import Materials
    from cycleqd_merge.tasks.suite import SuiteTask


def start_event(materials: Materials, in_flight: int, seeds: Sequence[Event] = ()) -> Event:
    """The journal's first event. Everything in it belongs to the run's identity.

    seeds: genomes beside the experts that the run starts from, each with the scores that it brings, by task.
    """
    recipe, family, suite, groups = materials.recipe, materials.family, materials.suite, materials.groups
    operators = recipe.evolution.model_dump(mode="json", exclude={"generations", "in_flight", "preset"})
    return {
        "event": "start",
        "format": JOURNAL_FORMAT,
        "base": family.base.digest,
        "experts": {expert.name: expert.digest for expert in family.experts},
        "models": recipe.models.model_dump(mode="json", exclude={"trust_remote_code", "pickles"}),
        "tasks": {task.name: task_identity(task) for task in suite},
        "strategy": recipe.strategy.model_dump(mode="json"),
        "evolution": operators,
        "groups": list(groups.labels),
        "in_flight": in_flight,
        "seeds": list(seeds),
        "revisions": recipe.revisions,
    }


def task_identity(task: SuiteTask) -> dict[str, Any]:
    """How a task is used and scored, and on which rows."""
    return {
        **task.use.model_dump(mode="json", exclude={"task", "name"}, exclude_none=True),
        "definition": task.loaded.definition.model_dump(mode="json", exclude={"description", "data"}),
        "search": task.digest("search"),
        "heldout": task.digest("heldout"),
        "confirm": task.digest("confirm"),
        "rows": {rows: len(task.samples(rows)) for rows in ROWS},
    }


def differences(recorded: Event, wanted: Event) -> list[str]:
    """One line for every value of the identity that differs, as `key: recorded -> wanted`."""
    return [f"{key}: {old!r} -> {new!r}" for key, old, new in _walk("", recorded, wanted)]


def _walk(prefix: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys((*old, *new)):
            yield from _walk(f"{prefix}.{key}" if prefix else key, old.get(key), new.get(key))
    elif old != new:
        yield prefix, old, new
