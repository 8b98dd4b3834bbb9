"""Pin every Hub id of a recipe to a commit, so that a run's models and data never change."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote

import huggingface_hub
from huggingface_hub import constants

from cycleqd_merge.cache import cache_folder
from cycleqd_merge.cache_entries import read_entry, write_entry
from cycleqd_merge.config.loading import load_task
from cycleqd_merge.config.model_names import hub_id, model_names
from cycleqd_merge.config.origin import is_commit
from cycleqd_merge.config.recipe import Recipe, task_name
from cycleqd_merge.config.rows import dataset_key, row_sources
from cycleqd_merge.errors import HubRefused
from cycleqd_merge.hub_errors import ending_waits, hub_errors, repeated
from cycleqd_merge.merging.missing_files import nearest

_PARALLEL = 8
_DATASETS = "datasets/"


def pin(recipe: Recipe, recorded: Mapping[str, str] = MappingProxyType({})) -> Recipe:
    """The recipe with a commit in `revisions` for every Hub id.

    recorded: the commits that were resolved when the run began; they are kept.

    Raises:
        HubRefused: a repository or revision does not exist, or access to it is denied; one line for each.
    """
    names = _names(recipe)
    known = {**recorded, **recipe.revisions}
    missing = [name for name in names if name not in known]
    errors: list[str] = []

    def resolve(name: str) -> str | None:
        try:
            return _resolve(name, names[name])
        except HubRefused as error:
            errors.append(f"{error}{_local(name)}")
            return None

    with ThreadPoolExecutor(_PARALLEL) as pool, ending_waits():
        resolved = dict(zip(missing, pool.map(resolve, missing), strict=True))
    if errors:
        raise HubRefused("\n".join(sorted(errors)))
    commits = {**known, **{name: sha for name, sha in resolved.items() if sha is not None}}
    return recipe.model_copy(update={"revisions": {name: commits[name] for name in names}})


def _names(recipe: Recipe) -> dict[str, str]:
    """The Hub ids of a recipe, as they are written in `revisions`, each with its label in error messages."""
    names: dict[str, str] = {}
    for place, reference in (("base", recipe.base), *((f"expert {n}", text) for n, text in recipe.experts.items())):
        for each in model_names(reference):
            if hub_id(each.path) is not None:
                names.setdefault(str(each), f"{place}: {each}")
    for use in recipe.tasks:
        for source in row_sources(load_task(use)):
            if source.dataset is not None and not Path(source.dataset).exists():
                names.setdefault(dataset_key(source), f"task {task_name(use)}: dataset {source.dataset}")
    return names


def _local(name: str) -> str:
    """A hint at a local folder that was meant instead of a Hub id; empty if there is no folder that may contain it."""
    path = Path(name.partition("@")[0])
    return f"; nor is it a local folder{nearest(path)}" if path.parent.name and path.parent.is_dir() else ""


def _resolve(name: str, label: str) -> str:
    """The commit of a Hub id; in offline mode, that of the copy in the cache.

    Raises:
        HubRefused: there is no such repository or revision, or access to it is denied.
    """
    repo, _, revision = name.removeprefix(_DATASETS).partition("@")
    kind = "dataset" if name.startswith(_DATASETS) else "model"
    if is_commit(revision):
        return revision
    cached = cache_folder("commits") / quote(f"{kind}/{repo}@{revision}", safe="")
    with hub_errors(label, HubRefused):
        if constants.is_offline_mode():
            stored = read_entry(cached)
            if stored is not None and is_commit(stored):
                return stored
            found = huggingface_hub.snapshot_download(
                repo, revision=revision or None, repo_type=kind, local_files_only=True
            )
            return Path(found).name
        api = huggingface_hub.HfApi()
        info = repeated(label, lambda: api.repo_info(repo, revision=revision or None, repo_type=kind))
        if getattr(info, "gated", False):
            repeated(label, lambda: api.auth_check(repo, repo_type=kind))
    assert info.sha is not None
    # the Hub's own cache records commits only for downloads by branch or tag
    write_entry(cached, info.sha)
    return info.sha
