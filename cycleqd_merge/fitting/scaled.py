"""Which scales a fit learns: of channels, of singular directions, or none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cycleqd_merge.fitting.job import Scales
from cycleqd_merge.merging.channels import channel_count
from cycleqd_merge.merging.checkpoint import Weight
from cycleqd_merge.merging.fits import Along
from cycleqd_merge.merging.name_map import NameMap
from cycleqd_merge.merging.staging import Staging

Sizes = Mapping[int, Mapping[str, int]]
"""By expert number, the number of scales of each tensor."""


def scaled(scales: Scales, model: Any, name_map: NameMap, staging: Staging) -> tuple[Along, Sizes]:
    """What is scaled, and the number of scales of every expert in every tensor.

    Singular directions: those of the bases in `staging`. Channels: of all matrices that an expert changes, but for the
    embeddings of tokens, which have a row per token.
    """
    experts = range(len(staging.family.experts))
    if scales == "singular":
        return "singular", {expert: dict(staging.bases[expert].ranks) for expert in experts if expert in staging.bases}
    if scales == "none":
        return "channel", {}
    embeddings = _embeddings(model, name_map)
    stored = staging.family.stored_names
    matrices = [w for w in staging.family.weights if w.is_matrix and stored[w.name] not in embeddings]
    found = {n: {w.name: channel_count(w.shape) for w in matrices if _changes(staging, n, w)} for n in experts}
    return "channel", {expert: sizes for expert, sizes in found.items() if sizes}


def _changes(staging: Staging, expert: int, weight: Weight) -> bool:
    return staging.task_vector(expert, weight, staging.base(weight).float()) is not None


def _embeddings(model: Any, name_map: NameMap) -> set[str]:
    """Stored names of the tensors with one row per token."""
    modules = (model.get_input_embeddings(), model.get_output_embeddings())
    parameters = {id(module.weight) for module in modules if module is not None}
    named = model.state_dict(keep_vars=True)
    return {each for name, stored in name_map.stored.items() if id(named[name]) in parameters for each in stored}
