"""Converting a mergekit-evolve configuration to a recipe."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cycleqd_merge.config.loading import read_yaml, yaml_text
from cycleqd_merge.errors import RecipeError

HEADER = """\
# yaml-language-server: $schema=recipe.schema.json
# Converted from a mergekit-evolve configuration. Its tasks need `pip install 'cycleqd-merge[lm-eval]'`; half of each is
# held out. Before you run it, give each task its `expert`, so that mutation follows the task's own skill. Options of
# mergekit-evolve's command line are not part of its file: `--task-search-path` is a task's `include`, `--vllm` is
# `engine: {kind: vllm}`, `--max-fevals` is `evolution.generations`.
"""
_INSTEAD = {  # what replaces a merge method
    "task_arithmetic": "",
    "linear": "task vectors are added to the base instead; if the weights sum to 1, the result is the same",
    "ties": "task vectors are added whole, without trimming or electing signs",
    "dare_ties": "task vectors are added whole, without dropping values or electing signs",
    "dare_linear": "task vectors are added whole, without dropping values",
    "slerp": "task vectors are added, not interpolated on a sphere",
}
_LEFT_OUT: dict[str, dict[str, tuple[Any, str]]] = {  # settings without a counterpart: default, what replaces it
    "genome": {
        "normalize": (None, "coefficients are used as they are"),
        "allow_negative_weights": (False, "coefficients may be negative"),
        "smooth": (False, "each block of layers has its own coefficients, without a gradient between them"),
        "tokenizer_source": (None, "children have the base's tokenizer; see `models.vocabulary`"),
    },
    "": {
        "shuffle": (False, "rows are divided into splits by each task's `seed`"),
        "random_init": (False, "the search starts from the experts"),
    },
}
_KINDS: dict[str, tuple[Any, str]] = {
    "layer_granularity": (int, "a whole number"),
    "filters": (list, "a list of texts"),
    "limit": (int | float, "a number"),
    "num_fewshot": (int, "a whole number"),
    "apply_chat_template": (bool, "true or false"),
    "fewshot_as_multiturn": (bool, "true or false"),
}
"""The kinds of values of settings that are carried over."""
_LEAST_LIMIT = 2  # half of the documents are held out
_KEYS = {
    "": {"genome", "tasks", "limit", "num_fewshot", "apply_chat_template", "fewshot_as_multiturn", *_LEFT_OUT[""]},
    "genome": {"models", "merge_method", "base_model", "layer_granularity", "filters", *_LEFT_OUT["genome"]},
    "tasks": {"name", "weight", "metric"},
}
"""The keys of a mergekit-evolve configuration, by section."""


@dataclass(frozen=True)
class Converted:
    """A recipe as plain values, and notes about settings that were not carried over, one per line."""

    recipe: dict[str, Any]
    notes: tuple[str, ...]


def convert_genome(path: Path) -> Converted:
    """The recipe for the search that a mergekit-evolve YAML file describes.

    `layer_granularity` and `filters` become coefficient groups; tasks become those of kind `lm_eval`.

    Raises:
        RecipeError: the file is not a mergekit-evolve configuration, has no base model to take task vectors from, or
            has too few experts or tasks.
    """
    data, _ = read_yaml(path)
    genome = data.get("genome")
    if not isinstance(genome, dict) or not isinstance(genome.get("models"), list):
        raise RecipeError(f"{path}: no `genome` with `models`: not a mergekit-evolve configuration")
    if genome.get("base_model") is None:
        raise RecipeError(f"{path}: genome.base_model is missing; task vectors require a base model")
    base = _reference(genome["base_model"], f"{path}: genome.base_model")
    _require_kinds(data, genome, path)
    models = [_reference(model, f"{path}: genome.models") for model in genome["models"]]
    experts = list(dict.fromkeys(model for model in models if model != base))
    if len(experts) < 2:
        raise RecipeError(
            f"{path}: genome.models: at least 2 models besides the base are required; found {len(experts)}"
        )
    tasks = _tasks(data, path)
    recipe = {
        "base": base,
        "experts": _named(experts),
        "tasks": tasks,
        "evolution": {"groups": _groups(genome)},
        "output": f"runs/{path.stem}",
    }
    return Converted(recipe, tuple(_notes(data, genome, base in models)))


def _require_kinds(data: Mapping[str, Any], genome: Mapping[str, Any], path: Path) -> None:
    """Check the settings that are carried over and are not text.

    Raises:
        RecipeError: one has a value of a different kind.
    """
    for section, place in (("genome.", genome), ("", data)):
        for key, (kind, expected) in _KINDS.items():
            value = place.get(key)
            if value is not None and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
                raise RecipeError(f"{path}: {section}{key}: expected {expected}; found {value!r}")


def _reference(value: Any, where: str) -> str:
    """A model reference as text, from mergekit's text or mapping."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and "model" in value:
        parts = [value["model"], value.get("lora")]
        return "+".join(_reference(part, where) for part in parts if part is not None)
    if isinstance(value, dict) and isinstance(value.get("path"), str):
        return "@".join([value["path"], *filter(None, [value.get("revision")])])
    raise RecipeError(f"{where}: {value!r} is not a model")


def _named(models: list[str]) -> dict[str, str]:
    """Models by the last part of their path, or all by number if two names are equal."""
    names = [re.sub(r"[^A-Za-z0-9_.-]+", "-", re.split(r"[@]", model.rsplit("/", 1)[-1])[0]) for model in models]
    if len(set(names)) < len(names) or not all(re.match(r"[A-Za-z0-9]", name) for name in names):
        names = [f"expert-{number}" for number in range(1, len(models) + 1)]
    return dict(zip(names, models, strict=True))


def _groups(genome: Mapping[str, Any]) -> Any:
    filters, layers = genome.get("filters") or [], genome.get("layer_granularity") or 0
    if layers > 0:
        return {"layers": layers, **({"modules": True} if filters else {})}
    return {"patterns": [re.escape(str(text)) for text in filters]} if filters else "one"


def _tasks(data: Mapping[str, Any], path: Path) -> list[dict[str, Any]]:
    """The tasks by name, each once: mergekit-evolve lists a task again for another metric of it."""
    stated = data.get("tasks")
    if not isinstance(stated, list) or not all(isinstance(_task_name(task), str) for task in stated):
        raise RecipeError(f"{path}: tasks: expected a list of names, or of mappings with a `name`")
    first = {_task_name(task): task for task in reversed(stated)}
    names = list(dict.fromkeys(map(_task_name, stated)))
    if len(names) < 2:
        raise RecipeError(f"{path}: tasks: at least 2 are required, one archive each; found {len(names)}")
    shared = {key: data[key] for key in ("num_fewshot", "limit") if data.get(key) is not None}
    if "limit" in shared and shared["limit"] < _LEAST_LIMIT:
        del shared["limit"]
    if data.get("apply_chat_template", True):
        shared |= {"chat": True, "fewshot_as_multiturn": bool(data.get("fewshot_as_multiturn", True))}
    return [
        {
            "task": {"kind": "lm_eval", "task": name, **_metric(first[name]), **shared},
            "name": re.sub(r"[^A-Za-z0-9_.-]+", "-", name),
        }
        for name in names
    ]


def _metric(task: Any) -> dict[str, str]:
    return {"metric": task["metric"]} if isinstance(task, dict) and task.get("metric") else {}


def _task_name(task: Any) -> Any:
    return task.get("name") if isinstance(task, dict) else task


def _notes(data: Mapping[str, Any], genome: Mapping[str, Any], base_listed: bool) -> list[str]:
    """Notes about settings that are not carried over, and what replaces them."""
    notes = []
    method = str(genome.get("merge_method"))
    instead = _INSTEAD.get(method, "task vectors are added instead, each with its own coefficient")
    if instead:
        notes.append(f"merge_method {method}: {instead}.")
    if base_listed:
        notes.append("the base in the list of models: it has no task vector.")
    if (genome.get("layer_granularity") or 0) > 0 and genome.get("filters"):
        notes.append(f"filters {', '.join(map(str, genome['filters']))}: instead, each kind of module is a group.")
    if any(isinstance(task, dict) and task.get("weight", 1) != 1 for task in data["tasks"]):
        notes.append("weight of tasks: each task has an archive of its own.")
    names = [_task_name(task) for task in data["tasks"]]
    repeated = [name for place, name in enumerate(names) if name in names[:place]]
    if repeated:
        notes.append(f"other metrics of {', '.join(repeated)}: a task is scored by its first metric.")
    if data.get("limit") is not None and data["limit"] < _LEAST_LIMIT:
        notes.append(f"limit {data['limit']}: at least {_LEAST_LIMIT} documents are required; all are used.")
    for section, place in (("genome", genome), ("", data)):
        settings = _LEFT_OUT[section].items()
        notes += [f"{key}: {instead}." for key, (default, instead) in settings if place.get(key, default) != default]
    sections = [("", data), ("genome", genome), *(("tasks", task) for task in data["tasks"] if isinstance(task, dict))]
    unknown = [
        f"{section}.{key}".strip(".") for section, place in sections for key in place if key not in _KEYS[section]
    ]
    notes += [f"{key}: not a key of mergekit-evolve, which ignores it." for key in dict.fromkeys(unknown)]
    return notes


def to_yaml(converted: Converted) -> str:
    """The recipe as YAML text, with a header of notes."""
    notes = "".join(f"#   {note}\n" for note in converted.notes)
    return HEADER + ("# Not carried over:\n" + notes if notes else "") + yaml_text(converted.recipe)
