"""A materialiser as text, so that another process can open the same one."""

from __future__ import annotations

import json
from typing import Any

import torch
from mergekit.common import ModelReference
from pydantic import TypeAdapter

from cycleqd_merge.config.evolution import GroupsConfig
from cycleqd_merge.config.recipe import ModelsConfig
from cycleqd_merge.merging.bases import prepare_bases
from cycleqd_merge.merging.family import Expert, ModelFamily, open_checkpoint, open_expert
from cycleqd_merge.merging.groups import Groups
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.staging import Place


def materialiser_spec(materialiser: Materialiser) -> str:
    """Models, groups, and whose bases are needed, as JSON text."""
    family = materialiser.family
    return json.dumps(
        {
            "base": str(family.base.reference),
            "experts": {expert.name: str(expert.reference) for expert in family.experts},
            "models": family.models.model_dump(mode="json"),
            "groups": TypeAdapter(GroupsConfig).dump_python(materialiser.groups.setting, mode="json"),
            "bases": sorted(materialiser.bases),
            "rank": materialiser.rank,
        }
    )


def open_materialiser(text: str, device: torch.device | str, place: Place) -> Materialiser:
    """The materialiser that `text` describes; its bases come from the cache where `text` was made."""
    spec: dict[str, Any] = json.loads(text)
    models = ModelsConfig.model_validate(spec["models"])
    base = open_checkpoint(ModelReference.parse(spec["base"]), models)
    references = {name: ModelReference.parse(reference) for name, reference in spec["experts"].items()}
    experts = tuple(Expert(name, ref, open_expert(ref, base, models)) for name, ref in references.items())
    family = ModelFamily(base, experts, models)
    groups = Groups(family.weights, TypeAdapter(GroupsConfig).validate_python(spec["groups"]))
    bases = prepare_bases(family, spec["bases"], rank=spec["rank"])
    return Materialiser(family, groups, bases, device, place)
