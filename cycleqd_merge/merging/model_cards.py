"""Licences and languages that models state on their cards, and the licence of a merge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import ModelCard, constants, errors

from cycleqd_merge.config.model_names import hub_id, model_names
from cycleqd_merge.errors import HubError, HubFailed, HubRefused, RecipeError
from cycleqd_merge.hub_errors import ask_hub


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
class CardData:
    """The facts that a model's card states. license: None if it states none."""

    license: License | None
    languages: tuple[str, ...]


def card_data(reference: str, error: type[HubRefused] | type[HubFailed] = HubFailed) -> CardData:
    """What the card of a model states; a Hub model's is read at the reference's commit.

    Raises:
        error: a card cannot be read because the Hub refuses or cannot be reached.
    """
    name = model_names(reference)[-1]  # an adapter has its own card
    front = _front_matter(name.path, name.revision, error)
    return CardData(_license(front), _languages(front))


def _front_matter(path: str, revision: str | None, error: type[HubRefused] | type[HubFailed]) -> dict[str, Any]:
    """The front matter of a model's card; empty if the model has no card, or its front matter cannot be parsed."""
    card = Path(path) / constants.REPOCARD_NAME
    if hub_id(path) is not None:
        try:
            download = partial(huggingface_hub.hf_hub_download, path, constants.REPOCARD_NAME, revision=revision)
            card = Path(ask_hub(f"card of {path}", download, error))
        except HubError as failed:
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
    except Exception as broken:
        if type(broken).__module__.startswith("yaml."):
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


def derived_license(stated: Mapping[str, License | None], chosen: str | None = None) -> License | None:
    """The licence that a merge inherits from its parents; None if none of them states one.

    stated: by the parent's name. chosen: the user's choice, which overrides the parents' licences.

    Raises:
        RecipeError: the parents' licences differ and none was chosen.
    """
    if chosen is not None:
        return License(chosen)
    found: dict[License, list[str]] = {}
    for parent, license in stated.items():
        if license is not None:
            found.setdefault(license, []).append(parent)
    if len(found) > 1:
        listed = "; ".join(f"{', '.join(names)}: {license.label}" for license, names in found.items())
        raise RecipeError(f"hub: the parents' licences differ ({listed}); choose one with `hub.license` or --license")
    return next(iter(found), None)
