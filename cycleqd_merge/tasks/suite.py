"""The tasks of a run, opened, in the order of their scores: tasks that are optimised come first."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import cast

from cycleqd_merge.config.loading import load_task
from cycleqd_merge.config.recipe import Recipe, TaskConfig, task_name
from cycleqd_merge.config.rows import with_pinned_rows
from cycleqd_merge.config.tasks import (
    CodeTaskConfig,
    DbbenchTaskConfig,
    GenerateTaskConfig,
    LmEvalTaskConfig,
    OsInteractionTaskConfig,
    TaskDefinitionConfig,
)
from cycleqd_merge.deprecation import warn_deprecated
from cycleqd_merge.errors import TaskError, UserError
from cycleqd_merge.evolution.draws import generator
from cycleqd_merge.tasks.equal_rows import content_of, draw_groups, leaked
from cycleqd_merge.tasks.protocol import Sample, Split, Task
from cycleqd_merge.tasks.splits import place_of


@dataclass(frozen=True)
class SuiteTask:
    """A task of a run: its name, how the recipe uses it, and the task itself.

    confirm_share: share of the search split that is reserved as the confirmation split.
    """

    name: str
    use: TaskConfig
    definition: TaskDefinitionConfig
    task: Task
    confirm_share: float = 0.0

    @property
    def semantics(self) -> int:
        """The version of the code that scores it; see `Task`."""
        return int(getattr(self.task, "semantics", 0))

    def samples(self, split: Split) -> Sequence[Sample]:
        """The samples of a split; the task's search split is divided into the run's search and confirmation splits.

        The division depends only on the samples, not on the run; equal samples are on one side. The recipe's `samples`
        limits the search split, and the confirmation split in the same proportion.
        """
        if split == "heldout":
            return self.task.samples("heldout")
        samples = self.task.samples("search")
        order = generator(0, "confirm").permutation(len(samples)).tolist()
        most = min(round(self.confirm_share * len(samples)), len(samples) - 1)
        reserved = draw_groups(order, [content_of(self.task, sample) for sample in samples], most)
        if split == "confirm":
            share, limit = self.confirm_share, self.use.samples
            confirm_limit = None if limit is None else round(limit * share / (1 - share))
            return [sample for place, sample in enumerate(samples) if place in reserved][:confirm_limit]
        return [sample for place, sample in enumerate(samples) if place not in reserved][: self.use.samples]

    def digest(self, split: Split) -> str:
        """A digest of the split's sample ids, in order."""
        return hashlib.sha256("\n".join(sample.id for sample in self.samples(split)).encode()).hexdigest()[:16]


Suite = tuple[SuiteTask, ...]


def open_suite(recipe: Recipe) -> Suite:
    """Open every task of a recipe.

    Raises:
        UserError: as `open_task`.
    """
    uses = sorted(recipe.tasks, key=lambda use: use.role != "optimise")
    return tuple(open_task(use, recipe.confirm.share, recipe.revisions) for use in uses)


def open_task(use: TaskConfig, confirm_share: float, revisions: Mapping[str, str] = MappingProxyType({})) -> SuiteTask:
    """Open one task of a recipe. revisions: see `Recipe.revisions`.

    Raises:
        RecipeError: its definition is missing or not valid.
        DataError: its rows cannot be read or used.
        TaskError: it cannot be opened, or a split is empty.
        UserError: the Hub refuses a dataset, or a user's class cannot be loaded.
    """
    name = task_name(use)
    definition = with_pinned_rows(load_task(use), revisions)
    try:
        task = _open_definition(definition)
    except UserError as error:
        raise type(error)(f"task {name}: {error}") from error
    for split in ("search", "heldout"):
        if not task.samples(split):
            raise TaskError(f"task {name}: its {split} split has no samples")
    return SuiteTask(name, use, definition, task, confirm_share)


def _open_definition(definition: TaskDefinitionConfig) -> Task:
    """The task of a definition, by its kind. A kind's module is imported when a task of that kind is opened."""
    if isinstance(definition, GenerateTaskConfig):
        from cycleqd_merge.tasks.generate import GenerateTask

        return GenerateTask(definition)
    if isinstance(definition, CodeTaskConfig):
        from cycleqd_merge.tasks.code.task import CodeTask

        return CodeTask(definition)
    if isinstance(definition, OsInteractionTaskConfig):
        from cycleqd_merge.tasks.os_interaction.task import OsInteractionTask

        return OsInteractionTask(definition)
    if isinstance(definition, DbbenchTaskConfig):
        from cycleqd_merge.tasks.database.task import DbbenchTask

        return DbbenchTask(definition)
    if isinstance(definition, LmEvalTaskConfig):
        from cycleqd_merge.tasks.lm_eval import LmEvalTask

        return LmEvalTask(definition)
    from cycleqd_merge.tasks.python import load_python_task

    return load_python_task(definition)


def leaked_counts(suite: Suite) -> dict[str, int]:
    """The number of held-out rows that equal search rows, by the names of the tasks that have any."""
    counts = {task.name: len(leaked(task.task)) for task in suite}
    return {name: count for name, count in counts.items() if count}


def leak_notices(suite: Suite) -> list[str]:
    """A notice about each task with held-out rows that equal search rows."""
    found = [(task, leaked(task.task)) for task in suite]
    return [
        f"task {task.name}: {len(rows)} of {len(task.task.samples('heldout'))} held-out rows are also search rows, "
        f"such as {place_of(rows[0])}; held-out scores on them are as optimistic as search scores"
        for task, rows in found
        if rows
    ]


def require_environments(suite: Suite) -> dict[str, str]:
    """Check what tasks need besides the model; returns each such task's one-line report, by the task's name.

    Raises:
        TaskError: something is missing or does not work; a line per task, with the command that installs it.
    """
    reports, problems = {}, []
    for task in suite:
        if (environment := _environment(task)) is not None:
            try:
                reports[task.name] = environment()
            except UserError as error:
                problems.append(f"task {task.name}: {error}")
    if problems:
        raise TaskError("\n".join(problems))
    return reports


def _environment(task: SuiteTask) -> Callable[[], str] | None:
    """The method of `NeedsEnvironment`, if the task has it, also under its deprecated name."""
    method = getattr(task.task, "environment", None)
    if callable(method):  # a task may have an attribute of this name that is something else
        return cast(Callable[[], str], method)
    method = getattr(task.task, "surroundings", None)
    if not callable(method):
        return None
    warn_deprecated("surroundings", "environment", "0.3", f"task {task.name}")
    return cast(Callable[[], str], method)
