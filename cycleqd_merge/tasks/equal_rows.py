"""Equal rows: the one definition of when two rows of a task are the same question, and where they leak."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

from cycleqd_merge.tasks.protocol import Sample, Task

_REPEATED = re.compile(r"(.*\b[0-9a-f]{16})-\d+", re.DOTALL)


@runtime_checkable
class ComparesRows(Protocol):
    """A task that knows more about equal rows than their ids say."""

    def content_of(self, sample: Sample) -> str:
        """Text that is equal for samples that ask and expect the same."""
        ...


def content_of(task: Task, sample: Sample) -> str:
    """Text that is equal for equal rows of a task: by the task itself, or by all columns of the row."""
    return task.content_of(sample) if isinstance(task, ComparesRows) else row_content(sample)


def row_content(sample: Sample) -> str:
    """The digest of a row in its sample's id, without the number of a repeated row (see `samples_of`)."""
    repeated = _REPEATED.fullmatch(sample.id)
    return repeated[1] if repeated else sample.id


def leaked(task: Task) -> list[Sample]:
    """The held-out samples that equal a sample of the search split."""
    return seen_among(task, task.samples("heldout"), task.samples("search"))


def seen_among(task: Task, samples: Iterable[Sample], seen: Iterable[Sample]) -> list[Sample]:
    """Those of a task's samples that equal one of the samples in `seen`."""
    contents = {content_of(task, sample) for sample in seen}
    return [sample for sample in samples if content_of(task, sample) in contents]


def draw_groups(order: Sequence[int], contents: Sequence[str], most: int) -> set[int]:
    """At most `most` rows, the first ones in a drawn order, such that equal rows are all among them or none is.

    order: places of rows. contents: by place, see `content_of`.
    """
    taken: list[int] = []
    for group in groups_of(order, contents):
        if len(taken) + len(group) <= most:
            taken.extend(group)
    return set(taken)


def groups_of(order: Sequence[int], contents: Sequence[str]) -> list[list[int]]:
    """Places of equal rows, together; the groups in the order of their first rows."""
    groups: dict[str, list[int]] = {}
    for place in order:
        groups.setdefault(contents[place], []).append(place)
    return list(groups.values())
