"""Licences and languages that the models of a run state on their cards, and the licence of a merge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import ModelCard, constants, errors

from cycleqd_merge.config.model_names import hub_id, model_names
from cycleqd_merge.config.references import without_paths
from cycleqd_merge.errors import HubFailed, RecipeError
from cycleqd_merge.hub_errors import hub_errors
from cycleqd_merge.run.state import Run


@dataclass(frozen=True)
class License:
    """A licence as front matter states it. name, link: only if its id is `other`."""

    id: str
    name: str | None = None
    link: str | None = None

    @property
    def label(self) -> str:
        """Its name for readers."""
        return self.name or self.id


@dataclass(frozen=True)
class Parent:
    """The base or an expert.

    reference: with its commit, without paths of this machine. ids: the Hub ids in the reference. sha256: of its
    weights. license: None if its card states none.
    """

    name: str
    reference: str
    ids: tuple[str, ...]
    sha256: str
    license: License | None = None
    languages: tuple[str, ...] = ()


def parents_of(run: Run) -> tuple[Parent, ...]:
    """The base, then the experts. Cards of Hub models are read at the run's commits.

    Raises:
        HubFailed: a card cannot be read because the Hub refuses or cannot be reached.
    """
    recipe, start = run.recipe, run.start
    digests = {"base": start["base"], **start["experts"]}
    named = {"base": recipe.base, **recipe.experts}
    return tuple(_parent(name, recipe.pinned(text), run, digests[name]) for name, text in named.items())


def _parent(name: str, reference: str, run: Run, digest: str) -> Parent:
    names = model_names(reference)
    ids = tuple(each.path for each in names if hub_id(each.path) is not None)
    data = _card_data(names[-1].path, names[-1].revision)  # an adapter has its own card
    return Parent(name, without_paths(reference, run.recipe), ids, digest, _license(data), _languages(data))


def _card_data(path: str, revision: str | None) -> dict[str, Any]:
    """The front matter of a model's card; empty if the model has no card, or its front matter cannot be parsed."""
    card = Path(path) / constants.REPOCARD_NAME
    if hub_id(path) is not None:
        try:
            with hub_errors(f"card of {path}", HubFailed):
                card = Path(huggingface_hub.hf_hub_download(path, constants.REPOCARD_NAME, revision=revision))
        except HubFailed as failed:
            cause = failed.__cause__
            absent = isinstance(cause, errors.EntryNotFoundError)
            if not absent or (isinstance(cause, errors.LocalEntryNotFoundError) and not constants.is_offline_mode()):
                raise
            return {}
    try:
        front = ModelCard(card.read_text(encoding="utf-8"), ignore_metadata_errors=True).data
        return dict(vars(front))
    except (OSError, ValueError, TypeError):  # no card, or no valid front matter
        return {}
    except Exception as error:
        if type(error).__module__.startswith("yaml."):
            return {}
        raise


def _license(data: dict[str, Any]) -> License | None:
    stated = data.get("license")
    if isinstance(stated, list):
        stated = " and ".join(map(str, stated)) if stated else None
    if not isinstance(stated, str) or not stated.strip():
        return None
    if stated.lower() != "other":
        return License(stated.lower())
    name, link = data.get("license_name"), data.get("license_link")
    return License("other", str(name) if name else None, str(link) if link else None)


def _languages(data: dict[str, Any]) -> tuple[str, ...]:
    stated = data.get("language")
    return tuple(map(str, stated)) if isinstance(stated, list) else (stated,) if isinstance(stated, str) else ()


def derived_license(parents: Sequence[Parent], chosen: str | None = None) -> License | None:
    """The licence that a merge inherits from its parents; None if none of them states one.

    chosen: the user's choice, which overrides the parents' licences.

    Raises:
        RecipeError: the parents' licences differ and none was chosen.
    """
    if chosen is not None:
        return License(chosen)
    stated: dict[License, list[str]] = {}
    for parent in parents:
        if parent.license is not None:
            stated.setdefault(parent.license, []).append(parent.name)
    if len(stated) > 1:
        listed = "; ".join(f"{', '.join(names)}: {license.label}" for license, names in stated.items())
        raise RecipeError(f"hub: the parents' licences differ ({listed}); choose one with --license")
    return next(iter(stated), None)
