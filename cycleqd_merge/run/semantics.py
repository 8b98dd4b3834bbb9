"""Semantics versions: the versions of tasks and engines that a run's scores come from, and the current ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.evaluation.engines.engine import SEMANTICS
from cycleqd_merge.journal.log import Event

if TYPE_CHECKING:  # comparing versions needs no torch
    from cycleqd_merge.tasks.suite import Suite


def task_versions(start: Event) -> dict[str, int]:
    """The version of every task in a `start` event, by the task's name."""
    return {name: task.get("semantics", 0) for name, task in start.get("tasks", {}).items()}


def engine_versions(sessions: Sequence[Event]) -> dict[str, int]:
    """The version of every engine that a run's sessions used, by its kind; all sessions have the same one."""
    default: str = Recipe.model_fields["engine"].default.kind
    kinds = [(session["recipe"].get("engine", {}).get("kind", default), session) for session in sessions]
    return {kind: session.get("engine_semantics", 0) for kind, session in kinds}


def changed_tasks(start: Event, suite: Suite) -> dict[str, str]:
    """Tasks whose current version is not the run's, as `recorded -> current` by name; without tasks new to the run."""
    recorded = task_versions(start)
    now = {task.name: task.semantics for task in suite if task.name in recorded}
    return {name: f"{recorded[name]} -> {version}" for name, version in now.items() if version != recorded[name]}


def changed_engines(sessions: Sequence[Event]) -> dict[str, str]:
    """Engines that a run used whose current version is not the run's, as `recorded -> current` by kind."""
    recorded = engine_versions(sessions)
    now = {kind: SEMANTICS[kind] for kind in recorded if kind in SEMANTICS}
    return {kind: f"{recorded[kind]} -> {version}" for kind, version in now.items() if version != recorded[kind]}
