"""Checking a task's grader outside any run."""

from __future__ import annotations

import re
from pathlib import Path

from cycleqd_merge.config.recipe import TaskConfig, reference_name
from cycleqd_merge.errors import TaskError
from cycleqd_merge.evaluation.failures import single_cause
from cycleqd_merge.event_loop import run_coroutine
from cycleqd_merge.tasks.check import GradingCheck, check
from cycleqd_merge.tasks.protocol import Checkable
from cycleqd_merge.tasks.row_files import READERS
from cycleqd_merge.tasks.suite import SuiteTask, open_task, require_environments


def open_alone(reference: str) -> SuiteTask:
    """A task without a recipe. reference: a task file, or the name of a shipped task.

    Raises:
        UserError: it cannot be opened; the message begins with its name.
    """
    if Path(reference).suffix.lower() in READERS.keys() - {".json"}:  # JSON is YAML, too
        raise TaskError(f"{reference}: a file of rows, not a task; name a YAML file that reads them (`data`)")
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", reference_name(reference)).lstrip("-._") or "task"
    return open_task(TaskConfig(task=reference, name=name), confirm_share=0.0)


def check_task(reference: str, limit: int | None = None) -> list[GradingCheck]:
    """Let a task grade the known answers to its samples, at most `limit` of each split.

    Raises:
        TaskError: the task cannot be opened, lacks its environment, or has no known answers.
        InfrastructureError: sandbox or database failed.
    """
    opened = open_alone(reference)
    if not isinstance(opened.task, Checkable):
        raise TaskError(f"task {reference}: kind `{opened.definition.kind}` has no known answers to check")
    require_environments((opened,))
    samples = [sample for split in ("search", "heldout") for sample in opened.task.samples(split)[:limit]]
    try:
        checked = run_coroutine(check(opened.task, samples))
    except ExceptionGroup as group:
        raise single_cause(group) from group
    if not checked:
        raise TaskError(
            f"task {reference}: no answer is known to be right or wrong (a `python` scorer decides that itself); "
            "look at scores with `task show`"
        )
    return checked
