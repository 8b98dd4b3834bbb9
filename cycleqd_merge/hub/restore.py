"""Download a published run and write it as a run directory. What others published is untrusted: their code never runs
unless the user allows it, and their recipes read no files of this machine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.hf_api import RepoFile

from cycleqd_merge.config.anchoring import anchored
from cycleqd_merge.config.foreign import PUBLISHED_OUTPUT, findings, require_harmless
from cycleqd_merge.config.loading import (
    load_task,
    override_recipe,
    own_keys,
    recorded_recipe,
    shipped_tasks,
    stated_recipe,
)
from cycleqd_merge.config.model_names import model_names
from cycleqd_merge.config.origin import ForeignConfig
from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.config.references import with_renamed_models
from cycleqd_merge.config.rows import row_sources
from cycleqd_merge.errors import RecipeError, first_line
from cycleqd_merge.hub.portable import CHAT_TEMPLATE, ROWS_FOLDER
from cycleqd_merge.hub_errors import ask_hub
from cycleqd_merge.journal.fits import stated_fits
from cycleqd_merge.journal.log import JOURNAL_FILE, Event, complete_events, journal_bytes, of_kind
from cycleqd_merge.merging.fit_files import RUN_FITS, checked_fit, file_of, require_few
from cycleqd_merge.merging.fits import LARGEST
from cycleqd_merge.run.order import order_differences

_FILES = (JOURNAL_FILE, CHAT_TEMPLATE, f"{ROWS_FOLDER}/*")
"""The files of a published run that are downloaded."""


def download_run(
    repo: str, revision: str | None, trust: bool, overrides: Sequence[str] = ()
) -> tuple[list[Event], Path]:
    """The journal of a published run, whose recipe is marked as foreign, and the folder with its downloaded files.

    trust: allow its recipe to name code, which runs when the run is opened. overrides: `key.path=value` texts that will
    replace keys of its recipe, which are not checked here.

    Raises:
        HubRefused: there is no such repository or revision, or it cannot be read.
        RecipeError: it is not a published run, or its recipe is refused.
    """
    label = f"dataset {repo}"
    try:
        downloaded = ask_hub(
            label,
            lambda: huggingface_hub.snapshot_download(
                repo, repo_type="dataset", revision=revision, allow_patterns=list(_FILES)
            ),
        )
    except ValueError as error:  # a file's name has `..`
        raise RecipeError(f"{label}: refused: {first_line(error)}") from error
    folder = Path(downloaded)
    if not (folder / JOURNAL_FILE).is_file():
        raise RecipeError(f"{label}: not a published run (no {JOURNAL_FILE})")
    try:
        events = complete_events(folder)
    except RecipeError as error:
        reason = str(error).removeprefix(f"{folder / JOURNAL_FILE}:")
        raise RecipeError(
            f"{label}: not a published run: its {JOURNAL_FILE} was not written by `push`: line {reason}"
        ) from None
    sessions = of_kind(events, "session")
    if [each["event"] for each in events[:2]] != ["start", "session"] or len(sessions) > 1:
        raise RecipeError(f"{label}: not a published run: its {JOURNAL_FILE} was not written by `push`")
    mark = ForeignConfig(folder=str(folder), own=own_keys(sessions[0]["recipe"], overrides), trust_remote_code=trust)
    recipe = _recipe_of(sessions[0], label)
    require_harmless(findings(recipe, mark, shipped_tasks()), label, trust, "pull with --trust-remote-code")
    sessions[0]["recipe"]["foreign"] = mark.model_dump()
    _download_fits(repo, folder, events, label)
    return events, folder


def _download_fits(repo: str, folder: Path, events: Sequence[Event], label: str) -> None:
    """Download the fits that a published run names, next to its journal: `folder` is named by the commit.

    Raises:
        RecipeError: there are too many, or one is missing, too large, or not the fit of its name.
    """
    digests = stated_fits(events)
    if not digests:
        return
    require_few(digests, label)
    paths = [f"{RUN_FITS}/{file_of(digest)}" for digest in digests]
    if not constants.HF_HUB_OFFLINE:
        _require_sizes(repo, folder.name, paths, label)
    ask_hub(
        label,
        lambda: huggingface_hub.snapshot_download(
            repo, repo_type="dataset", revision=folder.name, allow_patterns=paths
        ),
    )
    require_published_fits(folder, events, label)


def _require_sizes(repo: str, commit: str, paths: Sequence[str], label: str) -> None:
    """Check the sizes of files of a dataset repository before they are downloaded.

    Raises:
        RecipeError: one is missing or too large.
    """
    api = huggingface_hub.HfApi()
    found = ask_hub(label, lambda: api.get_paths_info(repo, list(paths), repo_type="dataset", revision=commit))
    sizes = {each.path: each.size for each in found if isinstance(each, RepoFile)}
    for path in paths:
        if path not in sizes:
            raise RecipeError(f"{label}: refused: {path}: missing")
        if sizes[path] > LARGEST:
            size = f"{sizes[path] // 2**20} MiB; at most {LARGEST // 2**20} MiB are read"
            raise RecipeError(f"{label}: refused: {path}: {size}")


def require_published_fits(folder: Path, events: Sequence[Event], label: str) -> None:
    """Check the fits of a published run in `folder`.

    Raises:
        RecipeError: one is missing, too large, or not the fit of its name; `label` names the run.
    """
    for digest in stated_fits(events):
        try:
            checked_fit(folder / RUN_FITS / file_of(digest), digest, len(events[0]["experts"]))
        except ValueError as error:
            raise RecipeError(f"{label}: refused: {RUN_FITS}/{file_of(digest)}: {error}") from None


def _recipe_of(session: Event, where: str) -> Recipe:
    """The recipe of a published session event, as it was published."""
    stated = {key: value for key, value in session["recipe"].items() if key != "foreign"}
    return recorded_recipe({**session, "recipe": {**stated, "output": PUBLISHED_OUTPUT}}, where, published=True)


def placed_events(events: Sequence[Event], out: Path, overrides: Sequence[str], trust: bool) -> list[Event]:
    """The events of a published run with its recipe as it is used in the folder `out`.

    overrides: `key.path=value` texts for the recipe. trust: see `download_run`.

    Raises:
        RecipeError: the recipe is refused, or is not valid with the overrides.
    """
    start, session, *rest = events
    here = out.resolve()
    mark = ForeignConfig(folder=str(here), trust_remote_code=trust)
    published = _recipe_of(session, str(out)).model_copy(update={"foreign": mark})
    overrides = [f"output={json.dumps(str(out))}", *overrides]
    recipe = override_recipe(_placed(published, here), overrides, str(out))
    if reordered := order_differences(start, recipe):
        raise RecipeError(f"{out}: {'; '.join(reordered)}: genomes and scores go by the order; keep the published one")
    recorded = stated_recipe(recipe)
    stated = recorded["recipe"]
    for part in ("strategy", "strategies"):
        if part in stated:
            stated[part] = with_renamed_models(stated[part], _moved(published, recipe))
    replaced = ("folder", "variables", "unpublished")
    kept = {key: value for key, value in session.items() if key not in replaced} | recorded
    return [start, kept, *rest]


def write_run(events: Sequence[Event], files: Path, folder: Path, sources: Sequence[Path]) -> None:
    """Write a run to `folder`. files: the folder with its downloaded files. sources: folders with its checked fits.

    Raises:
        RecipeError: a downloaded file is a link to a file outside the repository's copy.
    """
    (folder / JOURNAL_FILE).write_bytes(journal_bytes(events))
    for digest in stated_fits(events):
        (folder / RUN_FITS).mkdir(exist_ok=True)
        places = (source / RUN_FITS / file_of(digest) for source in sources)
        shutil.copy(next(place for place in places if place.is_file()), folder / RUN_FITS / file_of(digest))
    for path in files.rglob("*"):
        place = path.relative_to(files)
        if path.is_file() and (place.parts[0] == ROWS_FOLDER or place.name == CHAT_TEMPLATE):
            if not path.resolve().is_relative_to(files.resolve().parents[1]):  # the repository's folder in the cache
                raise RecipeError(f"{path}: refused: a link to a file outside the downloaded repository")
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / place)


def missing_rows(recipe: Recipe, folder: Path) -> list[str]:
    """The files of rows that a pulled recipe names in its folder and that are missing there, relative to it."""
    here = folder.resolve()
    paths = [Path(source.path) for use in recipe.tasks for source in row_sources(load_task(use)) if source.path]
    places = [path.relative_to(here) for path in paths if path.is_relative_to(here) and not path.is_file()]
    return list(dict.fromkeys(map(str, places)))


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
