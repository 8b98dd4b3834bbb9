"""One model by its reference, outside any run."""

from __future__ import annotations

from pathlib import Path

from cycleqd_merge.config.model_names import anchored_reference, is_malformed, model_names
from cycleqd_merge.config.recipe import ModelsConfig, PinnedModels
from cycleqd_merge.config.values import REFERENCE_FORM
from cycleqd_merge.errors import ModelError
from cycleqd_merge.evolution.genome import Genome, expert_genome
from cycleqd_merge.merging.adapter_checks import require_adapter
from cycleqd_merge.merging.family import ModelFamily, open_family
from cycleqd_merge.merging.groups import Groups
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.mergekit_references import model_reference


def open_model(reference: str, models: ModelsConfig) -> tuple[Materialiser, Genome | None]:
    """A model, and what an engine of its own has to load after it has started: the adapter of `base+adapter`, or None.

    reference: a folder, a Hub id, or `base+adapter` of these.

    Raises:
        ModelError: it is not a reference, or the model cannot be opened.
        UserError: the Hub refuses it.
    """
    text = anchored_reference(reference, Path())
    if "://" in reference or any(map(is_malformed, model_names(text))):
        raise ModelError(f"{reference}: {REFERENCE_FORM}")
    parsed = model_reference(text)
    experts = {} if parsed.lora is None else {"adapter": text}
    family: ModelFamily = open_family(PinnedModels(str(parsed.model), experts, models))
    for expert in family.experts:
        require_adapter(family, expert)
    return Materialiser(family, Groups(family.weights, "one"), {}), expert_genome(0, 1, 1) if experts else None
