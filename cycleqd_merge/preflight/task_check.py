"""Checking a task's grader outside any run."""

from __future__ import annotations

from cycleqd_merge.config.recipe import TaskConfig
from cycleqd_merge.errors import TaskError
from cycleqd_merge.evaluation.failures import single_cause
from cycleqd_merge.event_loop import run_coroutine
from cycleqd_merge.tasks.check import GradingCheck, check
from cycleqd_merge.tasks.protocol import Checkable
from cycleqd_merge.tasks.suite import open_task, require_environments


def check_task(reference: str, limit: int | None = None) -> list[GradingCheck]:
    """Let a task grade the known answers to its samples, at most `limit` of each split.

    Raises:
        TaskError: the task cannot be opened, lacks its environment, or has no known answers.
        InfrastructureError: sandbox or database failed.
    """
    opened = open_task(TaskConfig(task=reference, name="task"), confirm_share=0.0)
    if not isinstance(opened.task, Checkable):
        raise TaskError(f"task {reference}: kind `{opened.definition.kind}` has no known answers to check")
    require_environments((opened,))
    samples = [sample for split in ("search", "heldout") for sample in opened.task.samples(split)[:limit]]
    try:
        return run_coroutine(check(opened.task, samples))
    except ExceptionGroup as group:
        raise single_cause(group) from group
