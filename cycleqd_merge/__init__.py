"""Evolve merges of fine-tuned language models with CycleQD. The Python API; names load what they need when used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cycleqd_merge.config.loading import load_recipe
    from cycleqd_merge.config.recipe import Recipe
    from cycleqd_merge.evolution.archive import Archive, Elite
    from cycleqd_merge.evolution.genome import Genome, Mutation
    from cycleqd_merge.outputs.export import export, state_dict
    from cycleqd_merge.outputs.measure import measure
    from cycleqd_merge.run.elites import choose
    from cycleqd_merge.run.state import Run, open_run
    from cycleqd_merge.session.evolve import run_recipe

_HOMES = {
    "Archive": "evolution.archive",
    "Elite": "evolution.archive",
    "Genome": "evolution.genome",
    "Mutation": "evolution.genome",
    "Recipe": "config.recipe",
    "Run": "run.state",
    "choose": "run.elites",
    "export": "outputs.export",
    "load_recipe": "config.loading",
    "measure": "outputs.measure",
    "open_run": "run.state",
    "run_recipe": "session.evolve",
    "state_dict": "outputs.export",
}

__all__ = [
    "Archive",
    "Elite",
    "Genome",
    "Mutation",
    "Recipe",
    "Run",
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
