"""Proving a task's grader outside any run."""

from __future__ import annotations

import asyncio

from cycleqd_merge.config.recipe import TaskConfig
from cycleqd_merge.errors import UserError
from cycleqd_merge.evaluation.worker import single_cause
from cycleqd_merge.tasks.check import GradingCheck, check
from cycleqd_merge.tasks.protocol import Checkable
from cycleqd_merge.tasks.suite import open_task, require_environments


def check_task(reference: str, limit: int | None = None) -> list[GradingCheck]:
    """Let a task grade the known answers to its samples, of both splits; at most `limit` samples of each.

    Raises:
        UserError: the task cannot be opened, lacks what it works on, or knows no answers to its samples.
        InfrastructureError: the surroundings failed.
    """
    opened = open_task(TaskConfig(task=reference, name="task"), confirm_share=0.0)
    if not isinstance(opened.task, Checkable):
        raise UserError(f"task {reference}: kind `{opened.definition.kind}` has no known answers to check with")
    require_environments((opened,))
    samples = [sample for split in ("search", "heldout") for sample in opened.task.samples(split)[:limit]]
    try:
        return asyncio.run(check(opened.task, samples))
    except ExceptionGroup as group:
        raise single_cause(group) from group
