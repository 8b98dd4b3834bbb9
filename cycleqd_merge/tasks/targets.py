"""What a fit learns from a task's samples."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from cycleqd_merge.tasks.protocol import Checkable, Fittable, Outcome, Sample, Targets, Task

if TYPE_CHECKING:
    from cycleqd_merge.tasks.suite import SuiteTask


def has_targets(task: Task) -> bool:
    """Whether a fit can learn from a task: known before any work, for `plan`."""
    return isinstance(task, Fittable)


def fitted_tasks(suite: Iterable[SuiteTask]) -> list[str]:
    """The tasks of a run that its fits learn: those with an archive or an `expert` that a fit can learn from."""
    used = [task for task in suite if task.use.role == "optimise" or task.use.expert is not None]
    return [task.name for task in used if has_targets(task.task)]


def targets_of(task: Task, sample: Sample, outcome: Outcome, place: str) -> Targets | None:
    """What to learn from a sample; None: nothing. place: task and sample, for messages.

    Raises:
        ValueError: the task returned something else than `Targets`, or a score outside of 0 to 1.
    """
    if not isinstance(task, Fittable):
        return None
    found: Any = task.targets(sample, outcome)
    if found is None:
        return None
    if not isinstance(found, Targets):
        raise ValueError(f"{place}: `targets` returned a value of type {type(found).__name__}, not Targets or None")
    if not 0 <= found.score <= 1:
        raise ValueError(f"{place}: the targets' score {found.score!r} is not in [0, 1]")
    return found


def gold_targets(task: Checkable, sample: Sample) -> Targets | None:
    """The gold one of a sample's known answers; None if there is none."""
    gold = next((known for known in task.known_answers(sample) if known.right), None)
    return None if gold is None else Targets(gold=gold.reply)
