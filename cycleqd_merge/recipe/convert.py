"""Reading a mergekit-evolve configuration as a recipe."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from cycleqd_merge.errors import UserError
from cycleqd_merge.recipe.loading import read_yaml

HEADER = (
    "# yaml-language-server: $schema=recipe.schema.json\n"
    "# Converted from a mergekit-evolve configuration. Before it runs, write the task files that it names\n"
    "# (docs/tasks.md) and give each task its `expert`, so that mutation follows the task's own skill.\n"
)


def convert_genome(path: Path) -> dict[str, Any]:
    """The recipe, as plain values, that searches what a mergekit-evolve YAML describes.

    `layer_granularity` and `filters` become coefficient groups; tasks keep their names, as files still to be written.

    Raises:
        UserError: the file is no mergekit-evolve configuration, or has no base model to take task vectors from.
    """
    data, _ = read_yaml(path)
    genome = data.get("genome")
    if not isinstance(genome, dict) or not genome.get("models"):
        raise UserError(f"{path}: no `genome` with `models`: not a mergekit-evolve configuration")
    base = genome.get("base_model")
    if base is None:
        raise UserError(f"{path}: `genome.base_model` is missing; task vectors need a base model")
    experts = [model for model in genome["models"] if model != base]
    return {
        "base": base,
        "experts": {f"expert-{number}": model for number, model in enumerate(experts, start=1)},
        "tasks": [_task(task, data) for task in data.get("tasks", [])],
        "evolution": {"groups": _groups(genome)},
        "output": f"runs/{path.stem}",
    }


def _groups(genome: dict[str, Any]) -> Any:
    filters, layers = genome.get("filters") or [], genome.get("layer_granularity") or 0
    if filters and layers <= 0:
        return {"patterns": [str(text).replace(".", r"\.") for text in filters]}
    if layers > 0:
        return {"layers": layers, **({"modules": True} if filters else {})}
    return "one"


def _task(task: Any, data: dict[str, Any]) -> dict[str, Any]:
    name = task if isinstance(task, str) else task["name"]
    use: dict[str, Any] = {"task": f"{name}.yaml", "name": name}
    if data.get("limit") is not None:
        use["samples"] = data["limit"]
    return use


def to_yaml(recipe: dict[str, Any]) -> str:
    """A recipe's plain values as YAML text, with a header for whoever edits it next."""
    text = io.StringIO()
    YAML(typ="safe", pure=True).dump(recipe, text)
    return HEADER + text.getvalue()
