"""A run's recipe for publication: task definitions are inlined, this machine's paths and settings left out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import TypeAdapter

from cycleqd_merge.config.anchoring import without_folders
from cycleqd_merge.config.foreign import FIELDS, PUBLISHED_OUTPUT, findings, refused_and_code, without_keys
from cycleqd_merge.config.loading import load_task, parse, shipped_tasks
from cycleqd_merge.config.model_names import model_names
from cycleqd_merge.config.origin import ForeignConfig
from cycleqd_merge.config.recipe import Recipe, TaskConfig, task_name
from cycleqd_merge.config.references import local_models, with_renamed_models
from cycleqd_merge.config.rows import RowsConfig, with_row_sources
from cycleqd_merge.config.validation_errors import Location
from cycleqd_merge.config.variables import attach, keep_texts, texts_of

CHAT_TEMPLATE = "chat_template.jinja"
ROWS_FOLDER = "rows"
OWN_SETTINGS = {key for key, rule in FIELDS[Recipe].items() if rule.kind == "dropped"}
"""Sections about the machine and its user, not about the run."""


@dataclass(frozen=True)
class PortableRecipe:
    """A recipe for publication, and the local files that it refers to.

    rows: files of dataset rows by their paths relative to the recipe. template: the file of a chat template, if any.
    """

    recipe: Recipe
    rows: Mapping[str, Path]
    template: Path | None


def portable_recipe(recipe: Recipe) -> PortableRecipe:
    """Make a recipe portable.

    Paths of local models become `./models/...`, paths of rows `rows/...`, and Python files keep only their names:
    others can put these files there.
    """
    rows: dict[str, Path] = {}
    uses = [_use(use, rows) for use in recipe.tasks]
    template = recipe.models.chat_template
    from_file = template is not None and template != "base" and template not in recipe.experts
    models = recipe.models.model_copy(update={"chat_template": CHAT_TEMPLATE}) if from_file else recipe.models
    names = local_models(recipe)
    changed = recipe.model_copy(
        update={
            "base": _renamed(recipe.base, names),
            "experts": {name: _renamed(reference, names) for name, reference in recipe.experts.items()},
            "tasks": uses,
            "models": models,
        }
    )
    own = [each.at for each in findings(changed, ForeignConfig(), shipped_tasks()) if each.kind == "dropped"]
    stated = without_keys(changed, own).model_dump(mode="json", exclude_unset=True, exclude=OWN_SETTINGS)
    for part in ("engine", "strategy", "strategies"):
        if part in stated:
            stated[part] = with_renamed_models(_without_machine(stated[part]), names)
    whole = parse(TypeAdapter(Recipe), {**stated, "output": PUBLISHED_OUTPUT}, "recipe", changed)
    attach(whole, dict(texts_of(changed)))
    keep_texts(whole, lambda at, text: not _is_resolved(at) and (text.environment or text.missing is not None))
    return PortableRecipe(whole, rows, Path(template) if from_file and template is not None else None)


def _is_resolved(at: Location) -> bool:
    """Whether a key is published with the values of its variables: models and datasets on the Hub, and names of
    published files."""
    return at[0] in ("base", "experts", "models") or at[-1] == "dataset" or ("data" in at and at[-1] == "path")


def pull_notices(recipe: Recipe, label: str) -> list[str]:
    """What `pull` will say about a portable recipe, one line for each kind of refusal. label: its repository."""
    found = findings(recipe, ForeignConfig(folder=os.getcwd()), shipped_tasks())
    refused, code = refused_and_code(found)
    notices = [f"{label}: can only be pulled with --trust-remote-code, because it runs code: {', '.join(code)}"]
    unless = f"{label}: cannot be pulled unless the reader replaces these keys with --set: {'; '.join(refused)}"
    return [*(notices if code else ()), *([unless] if refused else ())]


def _renamed(reference: str, names: Mapping[str, str]) -> str:
    parts = (replace(each, path=names.get(each.path, each.path)) for each in model_names(reference))
    return "+".join(map(str, parts))


def _use(use: TaskConfig, rows: dict[str, Path]) -> TaskConfig:
    """A task with its definition inlined. rows: receives the files that the task reads, by their new paths."""
    name, definition = task_name(use), load_task(use)

    def moved(source: RowsConfig) -> RowsConfig:
        if source.path is None:
            return source
        here = Path(source.path)
        own = f"{name}{here.suffix}" if dict(texts_of(source)).get(("path",)) else f"{name}-{here.name}"
        new = f"{len(rows)}-{own}" if f"{ROWS_FOLDER}/{own}" in rows else own
        place = next((place for place, path in rows.items() if path == here), f"{ROWS_FOLDER}/{new}")
        rows[place] = here
        return source.model_copy(update={"path": place})

    moved_rows = with_row_sources(definition, moved)
    stated = without_folders(_without_machine(moved_rows.model_dump(mode="json", exclude_unset=True)))
    whole = {**use.model_dump(mode="json", exclude_unset=True, exclude={"task"}), "task": stated, "name": name}
    inlined = parse(TypeAdapter(TaskConfig), whole, f"task {name}", use)
    attach(inlined, {("task", *at): text for at, text in texts_of(moved_rows)})
    return inlined


def _without_machine(value: Any) -> Any:
    """Settings without environment variables, and with Python files by name only."""
    if isinstance(value, list):
        return [_without_machine(each) for each in value]
    if not isinstance(value, dict):
        return value
    kept = {key: _without_machine(each) for key, each in value.items() if key != "environment"}
    if isinstance(kept.get("target"), str) and kept["target"].partition(":")[0].endswith(".py"):
        kept["target"] = PurePosixPath(kept["target"]).name
    return kept
