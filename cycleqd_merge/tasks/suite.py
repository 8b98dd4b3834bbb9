"""The tasks of a run, opened, in the order of their scores: objectives first."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cycleqd_merge.errors import UserError
from cycleqd_merge.recipe.loading import LoadedTask, load_task
from cycleqd_merge.recipe.schema import Recipe, TaskUse, task_name
from cycleqd_merge.recipe.task_file import GenerateTask
from cycleqd_merge.tasks.generate import Generate
from cycleqd_merge.tasks.protocol import Sample, Split, Task
from cycleqd_merge.tasks.python import load_python_task


@dataclass(frozen=True)
class SuiteTask:
    """A task of a run: its name, how the recipe uses it, and the task itself."""

    name: str
    use: TaskUse
    loaded: LoadedTask
    task: Task

    def samples(self, split: Split) -> Sequence[Sample]:
        """The samples scored on: of the search split the first `samples`, of the held-out split all."""
        samples = self.task.samples(split)
        return samples[: self.use.samples] if split == "search" else samples

    def digest(self, split: Split) -> str:
        """A digest of the ids of the split's samples, in order."""
        return hashlib.sha256("\n".join(sample.id for sample in self.samples(split)).encode()).hexdigest()[:16]


Suite = tuple[SuiteTask, ...]


def open_suite(recipe: Recipe, folder: Path) -> Suite:
    """Open every task of a recipe; `folder` is where the recipe's relative paths start.

    Raises:
        UserError: a task cannot be opened, or a split of it holds no sample.
    """
    uses = sorted(recipe.tasks, key=lambda use: use.role != "optimise")
    return tuple(_open(use, folder) for use in uses)


def _open(use: TaskUse, folder: Path) -> SuiteTask:
    name = task_name(use)
    loaded = load_task(use, folder)
    try:
        if isinstance(loaded.definition, GenerateTask):
            task: Task = Generate(loaded.definition, loaded.folder)
        else:
            task = load_python_task(loaded.definition, loaded.folder)
    except UserError as error:
        raise UserError(f"task {name}: {error}") from error
    for split in ("search", "heldout"):
        if not task.samples(split):
            raise UserError(f"task {name}: its {split} split holds no sample")
    return SuiteTask(name, use, loaded, task)
