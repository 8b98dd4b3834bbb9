"""Download a published run and write it as a run directory. What others published is untrusted: their code never runs
unless the user allows it, and their recipes read no files of this machine."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import huggingface_hub
from pydantic import TypeAdapter

from cycleqd_merge.config.anchoring import anchored
from cycleqd_merge.config.loading import DEFINITIONS, load_task, override_recipe, parse
from cycleqd_merge.config.model_names import model_names
from cycleqd_merge.config.presets import first_versions, with_fixed_presets
from cycleqd_merge.config.recipe import Recipe, task_name
from cycleqd_merge.config.references import with_renamed_models
from cycleqd_merge.config.rows import RowsConfig, row_sources
from cycleqd_merge.config.tasks import OsInteractionTaskConfig
from cycleqd_merge.errors import RecipeError
from cycleqd_merge.hub.portable import CHAT_TEMPLATE, OUTPUT, OWN_SETTINGS, ROWS_FOLDER
from cycleqd_merge.hub_errors import hub_errors
from cycleqd_merge.journal.log import JOURNAL_FILE, Event, complete_events, journal_bytes, of_kind
from cycleqd_merge.run.order import order_differences

_FILES = (JOURNAL_FILE, CHAT_TEMPLATE, f"{ROWS_FOLDER}/*")
"""The files of a published run that are downloaded."""


def download_run(repo: str, revision: str | None, trust: bool) -> tuple[list[Event], Path]:
    """The journal of a published run, and the folder with its downloaded files.

    trust: allow its recipe to name code, which runs when the run is opened.

    Raises:
        HubRefused: there is no such repository or revision, or it cannot be read.
        RecipeError: it is not a published run, or its recipe is refused.
    """
    label = f"dataset {repo}"
    with hub_errors(label):
        downloaded = huggingface_hub.snapshot_download(
            repo, repo_type="dataset", revision=revision, allow_patterns=list(_FILES)
        )
    folder = Path(downloaded)
    if not (folder / JOURNAL_FILE).is_file():
        raise RecipeError(f"{label}: not a published run (no {JOURNAL_FILE})")
    events = complete_events(folder)
    sessions = of_kind(events, "session")
    if not events or events[0]["event"] != "start" or [type(each.get("recipe")) for each in sessions] != [dict]:
        raise RecipeError(f"{label}: not a published run: its {JOURNAL_FILE} was not written by `push`")
    _require_harmless(_recipe_of(sessions[0], label), label, trust)
    return events, folder


def _require_harmless(recipe: Recipe, label: str, trust: bool) -> None:
    """Check that a published recipe names no file of this machine, and runs code only if it may.

    Raises:
        RecipeError: it does.
    """
    shipped = {path.stem for path in DEFINITIONS.glob("*.yaml")}
    for use in recipe.tasks:  # `push` writes definitions into the recipe; other names would be files of this machine
        if isinstance(use.task, str) and use.task not in shipped:
            raise RecipeError(f"{label}: refused: task {use.task!r}: neither defined in its recipe nor a shipped task")
    for place, path in _paths(recipe):
        if not _is_inside(path):
            raise RecipeError(f"{label}: refused: {place}: {path} is outside the run's folder")
    template = recipe.models.chat_template
    if template not in (None, "base", CHAT_TEMPLATE, *recipe.experts):
        raise RecipeError(f"{label}: refused: chat template: {template} is outside the run's folder")
    code = sorted(set(_code_in(recipe.model_dump(mode="json", exclude_unset=True))))
    if code and not trust:
        raise RecipeError(
            f"{label}: its recipe runs code ({', '.join(code)}); read it, then pull with --trust-remote-code"
        )


def _recipe_of(session: Event, where: str) -> Recipe:
    """The recipe of a published session event, without settings that are up to this machine's user."""
    stated = {key: value for key, value in session["recipe"].items() if key not in OWN_SETTINGS}
    return parse(TypeAdapter(Recipe), with_fixed_presets({**stated, "output": OUTPUT}, first_versions()), where)


def _paths(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Everything in a recipe that may be a path of models or data, each with its place; Hub ids count as relative."""
    models = {"base": recipe.base, **{f"expert {name}": text for name, text in recipe.experts.items()}}
    for place, reference in models.items():
        yield from ((place, text) for text in (*re.split(r"[+@]", reference), reference))
    for use in recipe.tasks:
        definition, place = load_task(use), f"task {task_name(use)}"
        for source in row_sources(definition):
            yield from ((place, path) for path in (source.path, source.dataset) if path is not None)
        if isinstance(definition, OsInteractionTaskConfig) and definition.scripts is not None:
            yield place, definition.scripts


def _code_in(value: Any, key_above: str = "") -> Iterator[str]:
    """The settings in a recipe's plain values that make code run which is not part of this package.

    These are Python targets, `trust_remote_code`, options passed on to an engine, and task files of
    lm-evaluation-harness, whose templates are not sandboxed.
    """
    if isinstance(value, list):
        for each in value:
            yield from _code_in(each, key_above)
    if isinstance(value, dict):
        if isinstance(value.get("target"), str):
            yield value["target"]
        if value.get("kind") == "lm_eval" and (
            value.get("overrides") or value.get("include") or _is_file(value["task"])
        ):
            yield f"lm_eval task {value['task']}"
        for key, each in value.items():
            if (key == "trust_remote_code" and each) or (
                key_above == "engine" and key in ("options", "environment") and each
            ):
                yield key
            yield from _code_in(each, key)


def _is_file(task: str) -> bool:
    return "/" in task or task.endswith((".yaml", ".yml"))


def _row_files(recipe: Recipe) -> list[str]:
    def path(source: RowsConfig) -> list[str]:
        return [] if source.path is None else [source.path]

    return [each for use in recipe.tasks for source in row_sources(load_task(use)) for each in path(source)]


def _is_inside(path: str) -> bool:
    pure = PurePosixPath(path)
    return not pure.is_absolute() and ".." not in pure.parts and not path.startswith("~")


def write_run(events: Sequence[Event], files: Path, folder: Path, out: Path, overrides: Sequence[str]) -> list[str]:
    """Write a run to `folder`, which is to become `out`; returns the files of rows that are missing.

    files: the folder with its downloaded files. overrides: `key.path=value` texts for its recipe.

    Raises:
        RecipeError: the recipe is not valid with the overrides.
    """
    start, session, *rest = events
    here = out.resolve()
    published = _recipe_of(session, str(out))
    recipe = override_recipe(_placed(published, here), [f"output={json.dumps(str(out))}", *overrides], str(out))
    if reordered := order_differences(start, recipe):
        raise RecipeError(f"{out}: {'; '.join(reordered)}: genomes and scores go by the order; keep the published one")
    stated = recipe.model_dump(mode="json", exclude_unset=True)
    for part in ("strategy", "strategies"):
        if part in stated:
            stated[part] = with_renamed_models(stated[part], _moved(published, recipe))
    kept = {key: value for key, value in session.items() if key != "folder"} | {"recipe": stated}
    (folder / JOURNAL_FILE).write_bytes(journal_bytes((start, kept, *rest)))
    for path in files.rglob("*"):
        place = path.relative_to(files)
        if path.is_file() and (place.parts[0] == ROWS_FOLDER or place.name == CHAT_TEMPLATE):
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / place)
    return [path for path in dict.fromkeys(_row_files(published)) if not (folder / path).is_file()]


def _moved(published: Recipe, recipe: Recipe) -> dict[str, str]:
    """Paths of the publisher's local models on this machine, by their names in the published recipe."""
    pairs = [(published.base, recipe.base)]
    pairs += [(text, recipe.experts[name]) for name, text in published.experts.items() if name in recipe.experts]
    parts = (part for before, now in pairs for part in zip(before.split("+"), map(str, model_names(now)), strict=False))
    return {before: now for before, now in parts if before.startswith("./")}


def _placed(recipe: Recipe, here: Path) -> Recipe:
    """A published recipe with the paths of its rows, local models and chat template in the folder `here`.

    Files that are missing get such a path, too.
    """

    def model(reference: str) -> str:
        return "+".join(str(here / part) if part.startswith("./") else part for part in reference.split("+"))

    changed: dict[str, Any] = {
        "base": model(recipe.base),
        "experts": {name: model(reference) for name, reference in recipe.experts.items()},
    }
    if recipe.models.chat_template == CHAT_TEMPLATE:
        changed["models"] = recipe.models.model_copy(update={"chat_template": str(here / CHAT_TEMPLATE)})
    return anchored(recipe.model_copy(update=changed), here)
