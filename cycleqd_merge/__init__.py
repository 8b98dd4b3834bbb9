"""Evolve merges of fine-tuned language models with CycleQD. The Python API; names load what they need when used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cycleqd_merge.evolution.archive import Archive, Elite
    from cycleqd_merge.evolution.genome import Genome, Mutation
    from cycleqd_merge.journal.replay import Replay, open_run
    from cycleqd_merge.recipe.loading import load_recipe
    from cycleqd_merge.recipe.schema import Recipe
    from cycleqd_merge.run.elites import choose
    from cycleqd_merge.run.export import export, state_dict
    from cycleqd_merge.run.measure import measure
    from cycleqd_merge.run.session import run_recipe

_HOMES = {
    "Archive": "evolution.archive",
    "Elite": "evolution.archive",
    "Genome": "evolution.genome",
    "Mutation": "evolution.genome",
    "Recipe": "recipe.schema",
    "Replay": "journal.replay",
    "choose": "run.elites",
    "export": "run.export",
    "load_recipe": "recipe.loading",
    "measure": "run.measure",
    "open_run": "journal.replay",
    "run_recipe": "run.session",
    "state_dict": "run.export",
}

__all__ = [
    "Archive",
    "Elite",
    "Genome",
    "Mutation",
    "Recipe",
    "Replay",
    "choose",
    "export",
    "load_recipe",
    "measure",
    "open_run",
    "run_recipe",
    "state_dict",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
