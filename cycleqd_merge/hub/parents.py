"""The models that a run started from, with the facts that their cards state."""

from __future__ import annotations

from dataclasses import dataclass

from cycleqd_merge.config.model_names import hub_id, model_names
from cycleqd_merge.config.references import without_paths
from cycleqd_merge.merging.model_cards import License, card_data
from cycleqd_merge.run.state import Run


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
    stated = card_data(reference)
    return Parent(name, without_paths(reference, run.recipe), ids, digest, stated.license, stated.languages)
