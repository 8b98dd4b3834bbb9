"""The specification of a materialiser, as data: other processes open an identical one from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import TypeAdapter

from cycleqd_merge.config.evolution import GroupsConfig
from cycleqd_merge.config.recipe import ModelsConfig, PinnedModels
from cycleqd_merge.merging.bases import Rank, prepare_bases
from cycleqd_merge.merging.family import open_family
from cycleqd_merge.merging.groups import Groups
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.staging import Place


@dataclass(frozen=True)
class MaterialiserSpec:
    """The models, by reference, and how a materialiser uses them.

    bases: numbers of the experts whose singular bases are needed. rank: how those are truncated.
    """

    models: PinnedModels
    groups: GroupsConfig
    bases: tuple[int, ...]
    rank: Rank

    @classmethod
    def of(cls, materialiser: Materialiser) -> MaterialiserSpec:
        """The specification of an existing materialiser."""
        family = materialiser.family
        experts = {expert.name: str(expert.reference) for expert in family.experts}
        models = PinnedModels(str(family.base.reference), experts, family.models)
        bases = tuple(sorted(materialiser.bases))
        return cls(models, materialiser.groups.setting, bases, materialiser.rank)

    def to_json(self) -> dict[str, Any]:
        """The specification as JSON values."""
        return {
            "base": self.models.base,
            "experts": self.models.experts,
            "models": self.models.settings.model_dump(mode="json"),
            "groups": TypeAdapter(GroupsConfig).dump_python(self.groups, mode="json"),
            "bases": list(self.bases),
            "rank": self.rank,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> MaterialiserSpec:
        """The inverse of `to_json`."""
        models = PinnedModels(record["base"], record["experts"], ModelsConfig.model_validate(record["models"]))
        groups = TypeAdapter(GroupsConfig).validate_python(record["groups"])
        return cls(models, groups, tuple(record["bases"]), record["rank"])


def open_materialiser(
    spec: MaterialiserSpec, device: torch.device | str = "cpu", place: Place = "disk"
) -> Materialiser:
    """Open the models of `spec`, and compute singular bases that are not in the cache.

    Raises:
        UserError: a model cannot be opened, see `open_family`.
    """
    family = open_family(spec.models)
    bases = prepare_bases(family, spec.bases, rank=spec.rank)
    return Materialiser(family, Groups(family.weights, spec.groups), bases, device, place)
