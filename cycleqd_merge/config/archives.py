"""The kind and size of a recipe's archives."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from pydantic import TypeAdapter

from cycleqd_merge.config.evolution import ArchiveConfig, GridArchiveConfig, NoveltyArchiveConfig
from cycleqd_merge.config.recipe import Recipe, task_name
from cycleqd_merge.errors import RecipeError

MAX_CELLS = 1_000_000
MOST_GRID_TASKS = 4
"""With more tasks to optimise, archives are by dominated novelty unless the recipe says otherwise."""
OVERALL = "of all tasks"
"""Name of the one archive that plain MAP-Elites adds; no task can have this name."""


def archive_of(recipe: Recipe) -> ArchiveConfig:
    """The kind of a recipe's archives: the stated one, or else the one for its number of tasks."""
    if recipe.evolution.archive is not None:
        return recipe.evolution.archive
    return GridArchiveConfig(kind="grid") if len(_bins(recipe)) <= MOST_GRID_TASKS else NoveltyArchiveConfig()


def novelty_capacity(recipe: Recipe) -> int | None:
    """The capacity of a recipe's archives by dominated novelty; None if they are grids."""
    archive = archive_of(recipe)
    return archive.capacity if isinstance(archive, NoveltyArchiveConfig) else None


def with_recorded_archive(recipe: Recipe, recorded: Mapping[str, Any]) -> Recipe:
    """The recipe of an existing run with the kind of archives that the run has, unless the recipe states one.

    recorded: the `evolution` of the run's start. It has the key `archive` only if they are not grids: before there was
    the key, all were, whatever the number of tasks.
    """
    archive: ArchiveConfig = TypeAdapter(ArchiveConfig).validate_python(recorded.get("archive", {"kind": "grid"}))
    if recipe.evolution.archive is not None or archive == archive_of(recipe):
        return recipe
    return recipe.model_copy(update={"evolution": recipe.evolution.model_copy(update={"archive": archive})})


def cells(recipe: Recipe) -> dict[str, int]:
    """Cells per archive, by the name of its task: the product of the other tasks' bins.

    Without `evolution.cycling` there is one more, `OVERALL`, with the bins of all tasks. Empty if archives have no
    cells.
    """
    if novelty_capacity(recipe) is not None:
        return {}
    bins = _bins(recipe)
    found = {task: prod(count for other, count in bins.items() if other != task) for task in bins}
    if recipe.strategy.kind == "cycleqd" and not recipe.evolution.cycling:
        found[OVERALL] = prod(bins.values())
    return found


def _bins(recipe: Recipe) -> dict[str, int]:
    """The number of bins of every task to optimise, by its name."""
    return {task_name(use): use.bins or recipe.evolution.bins for use in recipe.tasks if use.role == "optimise"}


def require_archives(recipe: Recipe, where: str | None = None) -> None:
    """Refuse archives that are too large to fill, to hold in memory, or to draw. where: names the recipe in messages.

    Raises:
        RecipeError: an archive has more than a million cells, or one without cells would be drawn with more.
    """
    place = "" if where is None else f"{where}: "
    if novelty_capacity(recipe) is not None:
        drawn = prod(sorted(_bins(recipe).values())[-2:])
        if drawn > MAX_CELLS:
            raise RecipeError(
                f"{place}evolution.bins: an archive would be drawn with {drawn:,} cells, the limit is {MAX_CELLS:,}; "
                "use fewer bins"
            )
        return
    task, most = max(cells(recipe).items(), key=lambda item: item[1])
    if most > MAX_CELLS:
        raise RecipeError(
            f"{place}evolution.bins: archive {task} would have {most:,} cells, the limit is {MAX_CELLS:,}; "
            "use fewer bins, `role: keep` for some tasks, or `archive: {kind: dominated-novelty}`"
        )
