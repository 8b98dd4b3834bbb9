"""What a run's parents say of themselves on their own cards: licence and languages; and what follows for a merge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import ModelCard, constants, errors

from cycleqd_merge.config.references import without_paths
from cycleqd_merge.config.values import hub_id
from cycleqd_merge.errors import HubFailed, UserError
from cycleqd_merge.hub_errors import hub_errors
from cycleqd_merge.run.state import Run

CARD = "README.md"


@dataclass(frozen=True)
class License:
    """A licence as the Hub's front matter states it. name, link: of one that the Hub calls `other`."""

    id: str
    name: str | None = None
    link: str | None = None

    @property
    def label(self) -> str:
        """What people call it."""
        return self.name or self.id


@dataclass(frozen=True)
class Parent:
    """The base or an expert. reference: at its commit, without paths of this machine. ids: the Hub ids in it.

    sha256: of its weights. license: None where no card states one.
    """

    name: str
    reference: str
    ids: tuple[str, ...]
    sha256: str
    license: License | None = None
    languages: tuple[str, ...] = ()


def parents_of(run: Run) -> tuple[Parent, ...]:
    """The base, then the experts; cards of Hub models are read at the run's commits.

    Raises:
        HubFailed: the Hub cannot be reached, or refuses.
    """
    recipe, start = run.recipe, run.start
    digests = {"base": start["base"], **start["experts"]}
    named = {"base": recipe.base, **recipe.experts}
    return tuple(_parent(name, recipe.pinned(text), run, digests[name]) for name, text in named.items())


def _parent(name: str, reference: str, run: Run, digest: str) -> Parent:
    parts = [part.partition("@") for part in reference.split("+")]
    ids = tuple(path for path, _, _ in parts if hub_id(path) is not None)
    path, _, revision = parts[-1]  # an adapter speaks for itself, its base for itself
    data = _card_data(path, revision or None)
    return Parent(name, without_paths(reference, run.recipe), ids, digest, _license(data), _languages(data))


def _card_data(path: str, revision: str | None) -> dict[str, Any]:
    """The front matter of a model's card; empty where it has none that can be read."""
    card = Path(path) / CARD
    if hub_id(path) is not None:
        try:
            with hub_errors(f"card of {path}", HubFailed):
                card = Path(huggingface_hub.hf_hub_download(path, CARD, revision=revision))
        except HubFailed as failed:
            cause = failed.__cause__
            absent = isinstance(cause, errors.EntryNotFoundError)
            if not absent or (isinstance(cause, errors.LocalEntryNotFoundError) and not constants.is_offline_mode()):
                raise
            return {}
    try:
        front = ModelCard(card.read_text(encoding="utf-8"), ignore_metadata_errors=True).data
        return dict(vars(front))
    except (OSError, ValueError, TypeError):  # no card, or one without front matter that can be read
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
    """The licence that a merge takes over from its parents; None where none of them states any.

    chosen: the user's own decision, which counts whatever the parents state.

    Raises:
        UserError: the parents' licences differ and nothing was chosen.
    """
    if chosen is not None:
        return License(chosen)
    stated: dict[License, list[str]] = {}
    for parent in parents:
        if parent.license is not None:
            stated.setdefault(parent.license, []).append(parent.name)
    if len(stated) > 1:
        listed = "; ".join(f"{', '.join(names)}: {license.label}" for license, names in stated.items())
        raise UserError(f"hub: the parents' licences differ ({listed}); state the merge's own with --license")
    return next(iter(stated), None)
