"""Evolve merges of fine-tuned language models with CycleQD.

    from cycleqd_merge import evolve, export

    run = evolve("recipes/quickstart.yaml")
    export(run, "best-mean", "my-model")

Each name below is imported when it is first used. Types for writing your own tasks, scorers, strategies and observers
are in `cycleqd_merge.plugins`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cycleqd_merge import plugins as plugins
    from cycleqd_merge.comparison.compare import compare as compare
    from cycleqd_merge.config.loading import load_recipe as load_recipe
    from cycleqd_merge.config.recipe import Recipe as Recipe
    from cycleqd_merge.errors import CycleQDError as CycleQDError
    from cycleqd_merge.errors import DataError as DataError
    from cycleqd_merge.errors import HubError as HubError
    from cycleqd_merge.errors import HubFailed as HubFailed
    from cycleqd_merge.errors import HubRefused as HubRefused
    from cycleqd_merge.errors import InfrastructureError as InfrastructureError
    from cycleqd_merge.errors import Interrupted as Interrupted
    from cycleqd_merge.errors import ModelError as ModelError
    from cycleqd_merge.errors import RecipeError as RecipeError
    from cycleqd_merge.errors import RunFailed as RunFailed
    from cycleqd_merge.errors import TaskError as TaskError
    from cycleqd_merge.errors import UserError as UserError
    from cycleqd_merge.evolution.archive import Archive as Archive
    from cycleqd_merge.evolution.archive import Elite as Elite
    from cycleqd_merge.evolution.genome import Genome as Genome
    from cycleqd_merge.evolution.genome import Mutation as Mutation
    from cycleqd_merge.hub.pull import pull as pull
    from cycleqd_merge.merging.mergekit_method import register_mergekit_method as register_mergekit_method
    from cycleqd_merge.outputs.export import export as export
    from cycleqd_merge.outputs.export import state_dict as state_dict
    from cycleqd_merge.outputs.measure import measure as measure
    from cycleqd_merge.preflight.plan import plan as plan
    from cycleqd_merge.run.elites import choose as choose
    from cycleqd_merge.run.observer import Observer as Observer
    from cycleqd_merge.run.state import Run as Run
    from cycleqd_merge.run.state import open_run as open_run
    from cycleqd_merge.session.evolve import evolve as evolve
    from cycleqd_merge.session.fork import fork as fork
    from cycleqd_merge.session.push import push as push

    __version__: str

_MODULES = {
    "Archive": "evolution.archive",
    "CycleQDError": "errors",
    "DataError": "errors",
    "Elite": "evolution.archive",
    "Genome": "evolution.genome",
    "HubError": "errors",
    "HubFailed": "errors",
    "HubRefused": "errors",
    "InfrastructureError": "errors",
    "Interrupted": "errors",
    "ModelError": "errors",
    "Mutation": "evolution.genome",
    "Observer": "run.observer",
    "Recipe": "config.recipe",
    "RecipeError": "errors",
    "Run": "run.state",
    "RunFailed": "errors",
    "TaskError": "errors",
    "UserError": "errors",
    "choose": "run.elites",
    "compare": "comparison.compare",
    "evolve": "session.evolve",
    "export": "outputs.export",
    "fork": "session.fork",
    "load_recipe": "config.loading",
    "measure": "outputs.measure",
    "open_run": "run.state",
    "plan": "preflight.plan",
    "pull": "hub.pull",
    "push": "session.push",
    "register_mergekit_method": "merging.mergekit_method",
    "state_dict": "outputs.export",
}

__all__ = [*_MODULES]


if not TYPE_CHECKING:  # with it, type checkers would accept any name

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            from importlib.metadata import version

            return version("cycleqd-merge")
        if name == "plugins":
            return import_module("cycleqd_merge.plugins")
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*_MODULES, "__version__", "plugins"])
