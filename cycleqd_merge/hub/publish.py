"""Publish a run: its archive as a dataset, its models as model repositories, its page as a Space."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.constants import REPOCARD_NAME
from pydantic import TypeAdapter

from cycleqd_merge.config.hub import HubConfig
from cycleqd_merge.config.loading import parse, require_variables
from cycleqd_merge.errors import HubFailed, RecipeError
from cycleqd_merge.hub.archive import MANAGED_FOLDERS, archive_files, continues, portable_events
from cycleqd_merge.hub.card import archive_card
from cycleqd_merge.hub.draft import Pushed
from cycleqd_merge.hub.facts import card_facts, fit_facts
from cycleqd_merge.hub.portable import portable_recipe, pull_notices
from cycleqd_merge.hub.publication import Publication, PushOptions
from cycleqd_merge.hub.publish_models import file_name, push_models
from cycleqd_merge.hub.scan import require_no_credentials
from cycleqd_merge.hub_errors import hub_errors
from cycleqd_merge.journal.fits import stated_fits
from cycleqd_merge.journal.log import JOURNAL_FILE, complete_events
from cycleqd_merge.merging.fit_files import RUN_FITS, file_of, keep_fits, require_few, write_fits
from cycleqd_merge.outputs.export import require_genome
from cycleqd_merge.preflight.access import repositories as named_repositories
from cycleqd_merge.preflight.access import require_shareable_adapters, require_write
from cycleqd_merge.report.page import render_page
from cycleqd_merge.run.elites import NamedModel, choose, expand
from cycleqd_merge.run.state import Run, open_run, replay_events

log = logging.getLogger(__name__)
OnPushed = Callable[[Pushed], None]
ModelPlaces = dict[str, dict[str, NamedModel]]
"""By repository, its models by their folders; `""` is the root."""


def hub_settings(folder: Path, overrides: Mapping[str, Any]) -> HubConfig:
    """The `hub` section of the run's recipe, with some keys replaced.

    Raises:
        RecipeError: not a run directory, a value is not valid, or no repository is named.
    """
    hub = open_run(folder).recipe.hub
    keys = {**({} if hub is None else hub.model_dump(exclude_unset=True)), **overrides}
    if "repo" not in keys:
        raise RecipeError(f"{folder}: its recipe has no `hub` section; name a repository with --repo user/name")
    return parse(TypeAdapter(HubConfig), keys, "push")


def publish(folder: Path, hub: HubConfig, options: PushOptions, on_pushed: OnPushed) -> list[Pushed]:
    """Push the run in `folder` as `hub` says. on_pushed: called after each repository.

    Raises:
        UserError: not a run directory, no such model, no write access, or something to publish has a credential.
        HubFailed: the Hub refused or failed; what was pushed before stays, and pushing again completes the rest.
    """
    events = complete_events(folder)
    run = replay_events(events, str(folder))
    run.folder = folder
    if not run.archives:
        raise RecipeError(f"{folder}: nothing to push yet: not all experts are scored")
    require_variables(run.recipe, ("base", "experts", "models"))
    if options.archive_only:
        hub = hub.model_copy(update={"root": None, "elites": [], "space": False})
    places = _model_places(run, hub)
    if places and hub.adapters:
        require_shareable_adapters(run.recipe)
        for model in (each for models in places.values() for each in models.values()):
            require_genome(model)
    if not options.dry:
        others = [each for each in named_repositories(hub) if each[0] != "model"]
        require_write(*others, *(("model", repo) for repo in places))
    archive = hub.archive_repo if hub.archive else None
    facts = card_facts(run, hub.repo, archive, hub.license, fit_facts(events))
    publication = Publication(run, events, folder, hub, options, facts)
    pushed = []
    for push in _pushes(publication, places):
        pushed.append(push())
        on_pushed(pushed[-1])
    if len(places) > 1 and not options.dry and not options.create_pr:
        _add_to_collection(hub, list(places))
    return pushed


def _model_places(run: Run, hub: HubConfig) -> ModelPlaces:
    """The models to publish, by repository and folder."""
    root = None if hub.root is None else choose(run, hub.root)
    places: ModelPlaces = {} if root is None else {hub.repo: {"": root}}
    for other in (choose(run, name) for name in expand(run, hub.elites)):
        if root is not None and other.label == root.label:
            continue
        if hub.layout == "subfolders":
            places.setdefault(hub.repo, {})[f"{file_name(other.label)}/"] = other
        else:
            places[f"{hub.repo}-{file_name(other.label)}"] = {"": other}
    return places


def _pushes(publication: Publication, places: ModelPlaces) -> list[Callable[[], Pushed]]:
    """The pushes to make, one per repository."""
    archive = [lambda: _push_archive(publication)] if publication.hub.archive else []
    models = [
        lambda repo=repo, models=models: push_models(publication, repo, models) for repo, models in places.items()
    ]
    return [*archive, *models, *([lambda: _push_page(publication)] if publication.hub.space else [])]


def _push_archive(publication: Publication) -> Pushed:
    run, hub = publication.run, publication.hub
    portable = portable_recipe(run.recipe)
    for notice in pull_notices(portable.recipe, f"dataset {hub.archive_repo}"):
        log.warning("%s", notice)
    files: dict[str, bytes | Path] = dict(archive_files(run, publication.events, portable, hub.rows))
    files |= _fits(publication)
    files[REPOCARD_NAME] = archive_card(publication.facts_of(hub.archive_repo)).content.encode()
    require_no_credentials(files)
    draft = publication.draft("dataset", hub.archive_repo)
    draft.claim(lambda: continues(publication.events, draft.read(JOURNAL_FILE)))
    draft.add(files)
    draft.remove(path for path in draft.published if path.startswith(MANAGED_FOLDERS) and path not in files)
    return publication.commit(draft)


def _fits(publication: Publication) -> dict[str, Path]:
    """The files of all fits that the run has learned or begun with: a genome of any evaluation may have shares of them.

    Raises:
        ModelError: there are too many, or one is missing or damaged.
    """
    folder, digests = publication.folder / RUN_FITS, stated_fits(publication.events)
    require_few(digests, str(publication.folder))
    keep_fits(folder, digests)
    write_fits(folder, digests)
    return {f"{RUN_FITS}/{name}": folder / name for name in map(file_of, digests)}


def _push_page(publication: Publication) -> Pushed:
    run, repo = publication.run, publication.hub.repo
    shown = replay_events(portable_events(publication.events, portable_recipe(run.recipe)))
    name = repo.rpartition("/")[2]
    front = f"---\ntitle: {name}\nsdk: static\npinned: false\ntags: [mergekit, merge, cycleqd]\n---\n"
    files = {
        "index.html": render_page(shown, name).encode("utf-8", "backslashreplace"),
        REPOCARD_NAME: f"{front}\nThe report page of a cycleqd-merge run.\n".encode(),
    }
    require_no_credentials(files)
    draft = publication.draft("space", repo)
    draft.claim(lambda: False)
    draft.add(files)
    return publication.commit(draft)


def _add_to_collection(hub: HubConfig, repositories: Sequence[str]) -> None:
    """Add the models and the archive to a collection."""
    api, (space, _, name) = huggingface_hub.HfApi(), hub.repo.partition("/")
    with hub_errors(f"collection {name}", HubFailed):
        slug = api.create_collection(name, namespace=space, private=hub.private, exists_ok=True).slug
        for repo in repositories:
            api.add_collection_item(slug, repo, "model", exists_ok=True)
        if hub.archive:
            api.add_collection_item(slug, hub.archive_repo, "dataset", exists_ok=True)
