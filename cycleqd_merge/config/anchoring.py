"""Paths in recipes and task definitions: made absolute on loading, and reduced to file names for identities."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Any, TypeVar

from cycleqd_merge.config.model_names import anchored_reference
from cycleqd_merge.config.recipe import Recipe, TaskConfig
from cycleqd_merge.config.rows import RowsConfig, with_row_sources
from cycleqd_merge.config.scorers import PythonScorerConfig
from cycleqd_merge.config.strategies import NamedStrategyConfig, PythonStrategyConfig
from cycleqd_merge.config.tasks import (
    GenerateTaskConfig,
    LmEvalTaskConfig,
    OsInteractionTaskConfig,
    TaskDefinitionConfig,
)
from cycleqd_merge.config.values import PythonTargetConfig

_Target = TypeVar("_Target", bound=PythonTargetConfig)


def anchored(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with every relative path resolved against `folder`.

    A value that may also be a Hub id counts as a path only if `folder` has such a file or folder; a task's name also
    counts as one if it has a slash or ends in .yaml or .yml. A task's name in a stranger's recipe never counts as one.
    """

    changes: dict[str, Any] = {
        "base": anchored_reference(recipe.base, folder),
        "experts": {name: anchored_reference(reference, folder) for name, reference in recipe.experts.items()},
        "tasks": [
            _task_use(use, folder, recipe.foreign is None or recipe.foreign.is_own(("tasks", number, "task")))
            for number, use in enumerate(recipe.tasks)
        ],
    }
    template = recipe.models.chat_template
    if template is not None and template != "base" and template not in recipe.experts:
        changes["models"] = recipe.models.model_copy(update={"chat_template": _existing(template, folder)})
    if isinstance(recipe.strategy, PythonStrategyConfig):
        changes["strategy"] = _target(recipe.strategy, folder)
    if recipe.strategies:
        changes["strategies"] = {name: _named_strategy(named, folder) for name, named in recipe.strategies.items()}
    return recipe.model_copy(update=changes)


def anchored_task(definition: TaskDefinitionConfig, folder: Path) -> TaskDefinitionConfig:
    """The task definition with every relative path resolved against `folder`."""
    changes: dict[str, Any] = {}
    if isinstance(definition, LmEvalTaskConfig):
        changes["task"] = _existing(definition.task, folder)
        if definition.include is not None:
            changes["include"] = _absolute(definition.include, folder)
    elif isinstance(definition, PythonTargetConfig):
        return _target(definition, folder)
    elif isinstance(definition, OsInteractionTaskConfig) and definition.scripts is not None:
        changes["scripts"] = _absolute(definition.scripts, folder)
    elif isinstance(definition, GenerateTaskConfig) and isinstance(definition.scorer, PythonScorerConfig):
        changes["scorer"] = _target(definition.scorer, folder)
    changed = {key: value for key, value in changes.items() if value != getattr(definition, key)}
    return with_row_sources(definition.model_copy(update=changed) if changed else definition, _rows_from(folder))


def without_folders(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values of a task definition or strategy, with every path to a file reduced to the file's name.

    This is how they appear in a run's identity and in what is published.
    """
    changed = dict(settings)
    if isinstance(changed.get("target"), str):
        changed["target"] = _file_name(changed["target"])
    if isinstance(changed.get("scorer"), Mapping):
        changed["scorer"] = without_folders(changed["scorer"])
    for key in ("scripts", "include"):
        if isinstance(changed.get(key), str):
            changed[key] = PurePath(changed[key]).name
    if changed.get("kind") == "lm_eval" and str(changed.get("task")).endswith((".yaml", ".yml")):
        changed["task"] = PurePath(changed["task"]).name
    return changed


def _absolute(path: str, folder: Path) -> str:
    return os.path.abspath(folder / path)


def _existing(path: str, folder: Path) -> str:
    """An absolute path if such a file or folder exists, else the text unchanged."""
    return _absolute(path, folder) if (folder / path).exists() else path


def _task_use(use: TaskConfig, folder: Path, may_name_file: bool) -> TaskConfig:
    if not isinstance(use.task, str):
        definition = anchored_task(use.task, folder)
        return use if definition == use.task else use.model_copy(update={"task": definition})
    is_path = "/" in use.task or use.task.endswith((".yaml", ".yml")) or (folder / use.task).is_file()
    return use.model_copy(update={"task": _absolute(use.task, folder)}) if is_path and may_name_file else use


def _named_strategy(named: NamedStrategyConfig, folder: Path) -> NamedStrategyConfig:
    """The same object unless something changes, so that keys that were not stated stay unset."""
    if not isinstance(named.strategy, PythonStrategyConfig):
        return named
    return named.model_copy(update={"strategy": _target(named.strategy, folder)})


def _target(named: _Target, folder: Path) -> _Target:
    module, _, name = named.target.rpartition(":")
    if not module.endswith(".py"):
        return named
    return named.model_copy(update={"target": f"{_absolute(module, folder)}:{name}"})


def _rows_from(folder: Path) -> Callable[[RowsConfig], RowsConfig]:
    def change(source: RowsConfig) -> RowsConfig:
        if source.path is not None:
            return source.model_copy(update={"path": _absolute(source.path, folder)})
        if source.dataset is not None and (folder / source.dataset).exists():
            return source.model_copy(update={"dataset": _absolute(source.dataset, folder)})
        return source

    return change


def _file_name(target: str) -> str:
    module, _, name = target.rpartition(":")
    return f"{PurePath(module).name}:{name}" if module.endswith(".py") else target
