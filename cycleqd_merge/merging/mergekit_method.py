"""The merge method `cycleqd`: task arithmetic plus a genome's mutations, for mergekit to run.

Importing this module registers it. `mergekit-yaml` knows it only after that; `cycleqd-merge merge` sees to it.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from mergekit.common import ModelReference
from mergekit.merge_methods import InputContract, PerNonBase, TensorGroup, merge_method, register
from mergekit.merge_methods.base import BasePolicy
from pydantic import TypeAdapter, ValidationError

from cycleqd_merge.config.evolution import GroupsConfig
from cycleqd_merge.config.recipe import ModelsConfig
from cycleqd_merge.errors import UserError
from cycleqd_merge.evolution.genome import Genome
from cycleqd_merge.merging.bases import ExpertBases, Rank, prepare_bases
from cycleqd_merge.merging.checkpoint import Checkpoint, Weight
from cycleqd_merge.merging.family import Expert, ModelFamily, open_expert
from cycleqd_merge.merging.groups import Groups
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.mergekit_config import METHOD

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Carried:
    """The parameter `mutations` of a configuration: a genome without its coefficients, and what it refers to.

    rank: how the singular bases were truncated. bases: digests of those that the model was built on, by expert number.
    """

    genome: Genome
    groups: GroupsConfig
    vocabulary: str
    rank: Rank
    bases: dict[int, str]

    @classmethod
    def parse(cls, text: str, experts: int) -> Carried:
        """From the JSON that `mergekit_config` writes.

        Raises:
            UserError: it is something else.
        """
        try:
            record = json.loads(text)
            groups = len(record["mutations"][0]["share"])
            genome = Genome.from_json({**record, "coefficients": np.zeros((experts, groups)).tolist()})
            setting = TypeAdapter(GroupsConfig).validate_python(record["groups"])
            bases = {int(number): digest for number, digest in record["bases"].items()}
            return cls(genome, setting, record["vocabulary"], record["rank"], bases)
        except (ValueError, LookupError, TypeError, AttributeError, ValidationError) as error:
            raise UserError(f"method {METHOD}: parameter `mutations` is not what an export writes: {error}") from error


def cycleqd(group: TensorGroup, weight: PerNonBase[float], mutations: str) -> torch.Tensor:
    """base + sum_i weight_i (expert_i - base) + the change that a genome's mutations make.

    mutations: see `Carried`; its experts are the models beside the base, in their order.
    """
    base = group.base.tensor
    total = None
    for entry in group.non_base:
        term = (entry.tensor - base) * weight[entry.id]
        total = term if total is None else total.add_(term)
    references = tuple(entry.id for entry in group.non_base)
    if not all(isinstance(reference, ModelReference) for reference in (group.base.id, *references)):
        raise ValueError(f"method {METHOD} merges checkpoints named by model references, not state dicts")
    materialiser, genome, weights = _opened(group.base.id, references, mutations)
    change = materialiser.change(genome, weights[group.metadata.name])
    if change is not None:
        total = change if total is None else total.add_(change.to(base.device))
    return base if total is None else base + total


@lru_cache(maxsize=1)
def _opened(
    base_reference: ModelReference, references: tuple[ModelReference, ...], text: str
) -> tuple[Materialiser, Genome, dict[str, Weight]]:
    """The materialiser over the configuration's models, opened once per merge."""
    carried = Carried.parse(text, len(references))
    models = ModelsConfig.model_validate({"vocabulary": carried.vocabulary})
    base = Checkpoint(base_reference)
    experts = tuple(Expert(str(ref), ref, open_expert(ref, base, models)) for ref in references)
    family = ModelFamily(base, experts, models)
    bases = prepare_bases(family, sorted(carried.bases), rank=carried.rank)
    _compare(bases, carried.bases)
    materialiser = Materialiser(family, Groups(family.weights, carried.groups), bases)
    return materialiser, carried.genome, {weight.name: weight for weight in family.weights}


def _compare(bases: dict[int, ExpertBases], wanted: dict[int, str]) -> None:
    """Say so where the singular bases are not those that the model was first built on."""
    for number, digest in wanted.items():
        if bases[number].digest != digest:
            log.warning(
                "the singular basis of expert %d is not the one that the model was built on (%s, there %s): "
                "values may differ in their last place",
                number + 1,
                bases[number].digest,
                digest,
            )


register(
    merge_method(
        cycleqd,
        name=METHOD,
        pretty_name="CycleQD",
        reference_url="https://arxiv.org/abs/2410.14735",
        contract=InputContract(base=BasePolicy.REQUIRED),
    )
)
