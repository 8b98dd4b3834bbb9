"""The kind of a recipe's archives: by the number of tasks, as stated, and as an existing run has it."""

from __future__ import annotations

from typing import Any

import pytest

from cycleqd_merge.config.archives import archive_of, cells, novelty_capacity, require_archives, with_recorded_archive
from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.errors import RecipeError
from cycleqd_merge.run.identity import operators


def recipe_of(tasks: int, keep: int = 0, **evolution: Any) -> Recipe:
    """A recipe with tasks to optimise, and further tasks to keep."""
    uses = [{"task": f"t{number}"} for number in range(tasks)]
    uses += [{"task": f"k{number}", "role": "keep", "floor": 0.1} for number in range(keep)]
    stated = {"base": "b", "experts": {"one": "1", "two": "2"}, "tasks": uses, "output": "run", "evolution": evolution}
    return Recipe.model_validate(stated)


@pytest.mark.parametrize(
    ("tasks", "keep", "stated", "capacity"),
    [
        (2, 0, None, None),
        (4, 0, None, None),
        (4, 3, None, None),  # tasks to keep have no archive
        (5, 0, None, 100),
        (6, 0, {"kind": "dominated-novelty", "capacity": 7}, 7),
        (3, 0, {"kind": "dominated-novelty"}, 100),
        (5, 0, {"kind": "grid"}, None),
    ],
)
def test_the_number_of_tasks_chooses_the_kind_unless_the_recipe_does(
    tasks: int, keep: int, stated: dict[str, Any] | None, capacity: int | None
) -> None:
    recipe = recipe_of(tasks, keep) if stated is None else recipe_of(tasks, keep, archive=stated)
    assert novelty_capacity(recipe) == capacity
    assert bool(cells(recipe)) == (capacity is None)
    require_archives(recipe)


def test_a_grid_of_too_many_cells_is_refused_and_names_the_alternative() -> None:
    with pytest.raises(RecipeError, match=r"11,390,625 cells, the limit is 1,000,000; .*dominated-novelty"):
        require_archives(recipe_of(7, archive={"kind": "grid"}))
    require_archives(recipe_of(7))


def test_cells_that_are_only_drawn_have_the_same_limit() -> None:
    with pytest.raises(RecipeError, match="would be drawn with 4,000,000 cells"):
        require_archives(recipe_of(5, bins=2000))


@pytest.mark.parametrize("tasks", [3, 5])
def test_a_run_from_before_there_was_the_key_keeps_its_grids(tasks: int) -> None:
    recipe = recipe_of(tasks)
    before = {key: value for key, value in operators(recipe.evolution).items() if key != "archive"}
    resumed = with_recorded_archive(recipe, before)
    assert novelty_capacity(resumed) is None
    assert operators(resumed.evolution) == before
    assert (resumed is recipe) == (tasks == 3)


def test_a_run_keeps_its_capacity() -> None:
    started = recipe_of(6, archive={"kind": "dominated-novelty", "capacity": 9})
    recorded = operators(started.evolution)
    assert recorded["archive"] == {"kind": "dominated-novelty", "capacity": 9}
    assert novelty_capacity(with_recorded_archive(recipe_of(6), recorded)) == 9
    stated = recipe_of(6, archive={"kind": "dominated-novelty", "capacity": 8})
    assert with_recorded_archive(stated, recorded) is stated  # it is reported as a different run
    assert archive_of(recipe_of(6)).kind == "dominated-novelty"
