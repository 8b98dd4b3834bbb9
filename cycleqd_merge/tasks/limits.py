"""Limits that grading an answer exceeded: recorded with its outcome, because a score of 0 does not show them."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import replace

from cycleqd_merge.bounded import LimitExceeded
from cycleqd_merge.tasks.protocol import LanguageModel, Outcome, Sample, Task

_exceeded: ContextVar[list[str] | None] = ContextVar("exceeded", default=None)


async def score_within_limits(task: Task, sample: Sample, model: LanguageModel) -> Outcome:
    """The task's outcome, with the limits that grading exceeded. Raises as `Task.score`."""
    noted: list[str] = []
    token = _exceeded.set(noted)
    try:
        outcome = await task.score(sample, model)
    finally:
        _exceeded.reset(token)
    return replace(outcome, limits=tuple(dict.fromkeys(noted))) if noted and isinstance(outcome, Outcome) else outcome


def note_limit(what: str, error: LimitExceeded) -> None:
    """Record that a part of grading, which counts as wrong, exceeded a limit."""
    if (noted := _exceeded.get()) is not None:
        noted.append(f"{what} {error}")
