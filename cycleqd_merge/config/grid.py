"""The number of cells in a recipe's archives, all of which are held in memory."""

from __future__ import annotations

from math import prod

from cycleqd_merge.config.recipe import Recipe, task_name
from cycleqd_merge.errors import RecipeError

MAX_CELLS = 1_000_000


OVERALL = "of all tasks"
"""Name of the one archive that plain MAP-Elites adds; no task can have this name."""


def cells(recipe: Recipe) -> dict[str, int]:
    """Cells per archive, by the name of its task: the product of the other tasks' bins.

    Without `evolution.cycling` there is one more, `OVERALL`, with the bins of all tasks.
    """
    bins = {task_name(use): use.bins or recipe.evolution.bins for use in recipe.tasks if use.role == "optimise"}
    found = {task: prod(count for other, count in bins.items() if other != task) for task in bins}
    if recipe.strategy.kind == "cycleqd" and not recipe.evolution.cycling:
        found[OVERALL] = prod(bins.values())
    return found


def require_grid(recipe: Recipe, where: str | None = None) -> None:
    """Refuse archives that are too large to fill, or to hold in memory. where: names the recipe in the message.

    Raises:
        RecipeError: an archive has more than a million cells.
    """
    task, most = max(cells(recipe).items(), key=lambda item: item[1])
    if most > MAX_CELLS:
        place = "" if where is None else f"{where}: "
        raise RecipeError(
            f"{place}evolution.bins: archive {task} would have {most:,} cells, the limit is {MAX_CELLS:,}; "
            "use fewer bins, or `role: keep` for some tasks"
        )
