"""A published run brought back to this disk. What others published is hostile input: none of their code is run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import huggingface_hub
from pydantic import TypeAdapter

from cycleqd_merge.config.anchoring import anchored
from cycleqd_merge.config.loading import load_task, override_recipe, parse
from cycleqd_merge.config.presets import first_versions, with_fixed_presets
from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.config.references import respelled
from cycleqd_merge.config.rows import RowsConfig, row_sources
from cycleqd_merge.errors import UserError
from cycleqd_merge.hub.portable import CHAT_TEMPLATE, ROWS
from cycleqd_merge.hub_errors import hub_errors
from cycleqd_merge.journal.log import FILE, Event, of_kind, read_events

_WANTED = (FILE, CHAT_TEMPLATE, f"{ROWS}/*")


def published_events(repo: str, revision: str | None, trust: bool) -> tuple[list[Event], Path]:
    """The journal of a published run, and the folder that its files were downloaded to.

    trust: the recipe may name Python code, which goes on to run when the run is opened.

    Raises:
        UserError: there is no such repository, it holds no run, or the run needs code or files that it must not name.
    """
    with hub_errors(f"dataset {repo}"):
        found = huggingface_hub.snapshot_download(
            repo, repo_type="dataset", revision=revision, allow_patterns=list(_WANTED)
        )
    folder = Path(found)
    if not (folder / FILE).is_file():
        raise UserError(f"dataset {repo}: holds no published run (no {FILE})")
    events = read_events(folder)
    sessions = of_kind(events, "session")
    if events[0].get("event") != "start" or len(sessions) != 1:
        raise UserError(f"dataset {repo}: its {FILE} is not that of a published run")
    recipe = recipe_of(sessions[0], f"dataset {repo}")
    outside = [path for path in _row_files(recipe) if not _is_inside(path)]
    if outside:
        raise UserError(f"dataset {repo}: refused: a task of it reads {outside[0]}, outside of the run's folder")
    template = recipe.models.chat_template
    if template not in (None, "base", CHAT_TEMPLATE, *recipe.experts):
        raise UserError(f"dataset {repo}: refused: its chat template is {template}, outside of the run's folder")
    code = sorted(set(code_in(recipe.model_dump(mode="json", exclude_unset=True))))
    if code and not trust:
        raise UserError(
            f"dataset {repo}: its recipe runs code ({', '.join(code)}); read it, and pull with --trust-remote-code"
        )
    return events, folder


def recipe_of(session: Event, where: str) -> Recipe:
    """The recipe of a session."""
    return parse(TypeAdapter(Recipe), with_fixed_presets(session["recipe"], first_versions()), where)


def code_in(value: Any, place: str = "") -> Iterator[str]:
    """What in a recipe's plain values makes code run that is not this program's: Python targets, trust, options that
    are handed on to an engine, and lm-evaluation-harness's own task files, whose templates are not confined."""
    if isinstance(value, list):
        for each in value:
            yield from code_in(each, place)
    if isinstance(value, dict):
        if isinstance(value.get("target"), str):
            yield value["target"]
        if value.get("kind") == "lm_eval" and (
            value.get("overrides") or value.get("include") or _is_file(value["task"])
        ):
            yield f"lm_eval task {value['task']}"
        for key, each in value.items():
            if (key == "trust_remote_code" and each) or (
                place == "engine" and key in ("options", "environment") and each
            ):
                yield key
            yield from code_in(each, key)


def _is_file(task: str) -> bool:
    return "/" in task or task.endswith((".yaml", ".yml"))


def _row_files(recipe: Recipe) -> list[str]:
    def path(source: RowsConfig) -> list[str]:
        return [] if source.path is None else [source.path]

    return [each for use in recipe.tasks for source in row_sources(load_task(use)) for each in path(source)]


def _is_inside(path: str) -> bool:
    pure = PurePosixPath(path)
    return not pure.is_absolute() and ".." not in pure.parts


def write_run(events: Sequence[Event], files: Path, folder: Path, out: Path, overrides: Sequence[str]) -> list[str]:
    """Write a run to `folder` as it shall stand in `out`; returns the row files that it lacks.

    files: where those that came with it lie. overrides: `key.path=value` texts for its recipe.

    Raises:
        UserError: the recipe is not valid with them.
    """
    start, session, *rest = events
    here = out.resolve()
    published = recipe_of(session, str(out))
    recipe = override_recipe(_placed(published, here), [f"output={json.dumps(str(out))}", *overrides], str(out))
    stated = recipe.model_dump(mode="json", exclude_unset=True)
    if "strategy" in stated:
        stated["strategy"] = respelled(stated["strategy"], _moved(published, recipe))
    kept = {key: value for key, value in session.items() if key != "folder"} | {"recipe": stated}
    text = "".join(json.dumps(event, separators=(",", ":")) + "\n" for event in (start, kept, *rest))
    (folder / FILE).write_text(text, encoding="utf-8")
    for path in files.rglob("*"):
        place = path.relative_to(files)
        if path.is_file() and (place.parts[0] == ROWS or place.name == CHAT_TEMPLATE):
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / place)
    return [path for path in dict.fromkeys(_row_files(published)) if not (folder / path).is_file()]


def _moved(published: Recipe, recipe: Recipe) -> dict[str, str]:
    """Where the models that were local to the publisher lie now, by what they are called in the published recipe."""
    pairs = [(published.base, recipe.base)]
    pairs += [(text, recipe.experts[name]) for name, text in published.experts.items() if name in recipe.experts]
    parts = (part for before, now in pairs for part in zip(before.split("+"), now.split("+"), strict=False))
    return {before: now for before, now in parts if before.startswith("./")}


def _placed(recipe: Recipe, here: Path) -> Recipe:
    """A published recipe with its rows, local models and chat template inside the folder `here`, also missing ones."""

    def model(reference: str) -> str:
        return "+".join(str(here / part) if part.startswith("./") else part for part in reference.split("+"))

    changed: dict[str, Any] = {
        "base": model(recipe.base),
        "experts": {name: model(reference) for name, reference in recipe.experts.items()},
    }
    if recipe.models.chat_template == CHAT_TEMPLATE:
        changed["models"] = recipe.models.model_copy(update={"chat_template": str(here / CHAT_TEMPLATE)})
    return anchored(recipe.model_copy(update=changed), here)
