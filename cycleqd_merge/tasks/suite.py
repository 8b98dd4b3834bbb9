"""The tasks of a run, opened, in the order of their scores: objectives first."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

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
from cycleqd_merge.errors import UserError
from cycleqd_merge.evolution.draws import generator
from cycleqd_merge.tasks.code.task import Code
from cycleqd_merge.tasks.generate import Generate
from cycleqd_merge.tasks.os_interaction.task import OsInteraction
from cycleqd_merge.tasks.protocol import NeedsEnvironment, Sample, Split, Task
from cycleqd_merge.tasks.python import load_python_task


@dataclass(frozen=True)
class SuiteTask:
    """A task of a run: its name, how the recipe uses it, and the task itself."""

    name: str
    use: TaskConfig
    definition: TaskDefinitionConfig
    task: Task
    confirm_share: float = 0.0

    def samples(self, split: Split) -> Sequence[Sample]:
        """The samples scored on: held-out all of them, else the search split less, or only, what is set aside.

        Which samples are set aside depends on how many there are, not on the run. `samples` limits the searched ones,
        and in the same proportion those that confirm.
        """
        if split == "heldout":
            return self.task.samples("heldout")
        samples = self.task.samples("search")
        order = generator(0, "confirm").permutation(len(samples))
        aside = set(order[: min(round(self.confirm_share * len(samples)), len(samples) - 1)].tolist())
        if split == "confirm":
            share, searched = self.confirm_share, self.use.samples
            most = None if searched is None else round(searched * share / (1 - share))
            return [sample for place, sample in enumerate(samples) if place in aside][:most]
        return [sample for place, sample in enumerate(samples) if place not in aside][: self.use.samples]

    def digest(self, split: Split) -> str:
        """A digest of the ids of the samples, in order."""
        return hashlib.sha256("\n".join(sample.id for sample in self.samples(split)).encode()).hexdigest()[:16]


Suite = tuple[SuiteTask, ...]


def open_suite(recipe: Recipe) -> Suite:
    """Open every task of a recipe.

    Raises:
        UserError: a task cannot be opened, or a split of it holds no sample.
    """
    uses = sorted(recipe.tasks, key=lambda use: use.role != "optimise")
    return tuple(open_task(use, recipe.confirm.share, recipe.revisions) for use in uses)


def open_task(use: TaskConfig, confirm_share: float, revisions: Mapping[str, str] = MappingProxyType({})) -> SuiteTask:
    """Open one task of a recipe. revisions: see `Recipe.revisions`.

    Raises:
        UserError: it cannot be opened, or a split of it holds no sample.
    """
    name = task_name(use)
    definition = with_pinned_rows(load_task(use), revisions)
    try:
        task = _opened(definition)
    except UserError as error:
        raise UserError(f"task {name}: {error}") from error
    for split in ("search", "heldout"):
        if not task.samples(split):
            raise UserError(f"task {name}: its {split} split holds no sample")
    return SuiteTask(name, use, definition, task, confirm_share)


def _opened(definition: TaskDefinitionConfig) -> Task:
    """The task of a definition, by its kind."""
    if isinstance(definition, GenerateTaskConfig):
        return Generate(definition)
    if isinstance(definition, CodeTaskConfig):
        return Code(definition)
    if isinstance(definition, OsInteractionTaskConfig):
        return OsInteraction(definition)
    if isinstance(definition, DbbenchTaskConfig):  # the libraries of these two are loaded where they are used
        from cycleqd_merge.tasks.database.task import Dbbench

        return Dbbench(definition)
    if isinstance(definition, LmEvalTaskConfig):
        from cycleqd_merge.tasks.lm_eval import LmEval

        return LmEval(definition)
    return load_python_task(definition)


def require_environments(suite: Suite) -> dict[str, str]:
    """What each task that works on something beside the model found to work on, by the task's name.

    Raises:
        UserError: something is missing; a line per task, with the command that installs it.
    """
    found, faults = {}, []
    for task in suite:
        if isinstance(task.task, NeedsEnvironment):
            try:
                found[task.name] = task.task.environment()
            except UserError as error:
                faults.append(f"task {task.name}: {error}")
    if faults:
        raise UserError("\n".join(faults))
    return found
