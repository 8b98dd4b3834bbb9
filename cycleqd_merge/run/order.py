"""The order of a run's experts and tasks.

Genomes hold a coefficient per expert, and results a score per task, by position: names are assigned to them in the
order of the run's start event, whose JSON keys are in that order. Versions before 0.2 let a later session reorder them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cycleqd_merge.config.recipe import Recipe, reference_name, task_name
from cycleqd_merge.errors import RecipeError
from cycleqd_merge.evolution.genome import Genome
from cycleqd_merge.journal.log import Event
from cycleqd_merge.run.differences import order_difference
from cycleqd_merge.strategies.factory import ordered_tasks


def order_differences(start: Event, recipe: Recipe) -> list[str]:
    """Lines with the names in both orders, of the experts and of the tasks, where a recipe's order is not the run's."""
    tasks = [task_name(use) for use in ordered_tasks(recipe)]
    return _differences(start, list(recipe.experts), tasks)


def _differences(start: Event, experts: list[str], tasks: list[str]) -> list[str]:
    return [
        *order_difference("experts", list(start["experts"]), experts),
        *order_difference("tasks", list(start.get("tasks", tasks)), tasks),
    ]


def in_recorded_order(recipe: Recipe, start: Event, where: str) -> Recipe:
    """The recipe with its experts and tasks in the order of a run's start event; the same object if it has that order.

    Raises:
        RecipeError: its experts or tasks are not those of the run; `where` names the journal.
    """
    names = [task_name(use) for use in recipe.tasks]
    experts, tasks = list(start["experts"]), list(start.get("tasks", names))
    if set(experts) != set(recipe.experts) or set(tasks) != set(names):
        raise RecipeError(
            f"{where}: damaged: it names experts {', '.join(experts)} and tasks {', '.join(tasks)}, but its recipe "
            f"{', '.join(recipe.experts)} and {', '.join(names)}"
        )
    if not order_differences(start, recipe):
        return recipe
    return recipe.model_copy(
        update={
            "experts": {name: recipe.experts[name] for name in experts},
            "tasks": [recipe.tasks[names.index(name)] for name in tasks],
        }
    )


def events_in_order(events: Sequence[Event], where: str) -> list[Event]:
    """The events without scores of models measured in a session that had the experts or tasks in another order.

    Such scores belong to other models than the ones they are recorded for.

    Raises:
        RecipeError: the search was continued in such a session, so that its genomes and scores have two orders.
    """
    start, kept = events[0], []
    found: list[str] = []
    for line, event in enumerate(events, start=1):
        if event["event"] == "session":
            stated = event["recipe"]
            found = _differences(start, list(stated["experts"]), _stated_tasks(stated))
        if found and event["event"] in ("result", "confirm"):
            raise RecipeError(
                f"{where}:{line}: recorded after the recipe was reordered ({'; '.join(found)}), so it cannot be "
                f"assigned to experts and tasks; remove this line and all after it to keep the run up to here"
            )
        if not found or event["event"] != "measured":
            kept.append(event)
    return kept


def _stated_tasks(stated: dict[str, Any]) -> list[str]:
    """Names of the tasks in a recorded recipe, in the order of their scores."""
    uses = sorted(stated["tasks"], key=lambda use: use.get("role", "optimise") != "optimise")
    return [use.get("name") or reference_name(use["task"]) for use in uses]


def require_founders(start: Event, experts: Sequence[str], tasks: Sequence[str], where: str) -> None:
    """Check that a run's founders have a coefficient per expert and group, and scores of the run's tasks only.

    Raises:
        RecipeError: one does not; `where` names the journal.
    """
    wanted = (len(experts), len(start["groups"]))
    for number, founder in enumerate(start.get("seeds", [])):
        genome = Genome.from_json(founder["genome"])
        found = genome.coefficients.shape
        if found != wanted:
            raise RecipeError(
                f"{where}: damaged: founder {number} has coefficients of {found[0]} experts in {found[1]} groups; the "
                f"run has {wanted[0]} experts in {wanted[1]} groups"
            )
        if any(mutation.expert is not None and mutation.expert >= wanted[0] for mutation in genome.mutations):
            raise RecipeError(f"{where}: damaged: founder {number} has a mutation of an expert that the run lacks")
        if unknown := [name for name in founder["scores"] if name not in tasks]:
            raise RecipeError(f"{where}: damaged: founder {number} has scores of tasks that the run lacks: {unknown}")
