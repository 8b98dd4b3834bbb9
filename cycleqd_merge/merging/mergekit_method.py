"""The merge method `cycleqd`: task arithmetic plus a genome's mutations, for mergekit to run.

Importing this module registers it. `mergekit-yaml` knows it only after that; `cycleqd-merge merge` sees to it.
"""

from __future__ import annotations

import json
from functools import lru_cache

import torch
from mergekit.common import ModelReference
from mergekit.merge_methods import InputContract, PerNonBase, TensorGroup, merge_method, register
from mergekit.merge_methods.base import BasePolicy
from pydantic import TypeAdapter

from cycleqd_merge.evolution.genome import Genome
from cycleqd_merge.merging.bases import prepare_bases
from cycleqd_merge.merging.checkpoint import Checkpoint, Weight
from cycleqd_merge.merging.family import Expert, Family, open_expert
from cycleqd_merge.merging.groups import Groups
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.mergekit_config import METHOD
from cycleqd_merge.recipe.schema import Evolution, Models


def cycleqd(group: TensorGroup, weight: PerNonBase[float], genome: str) -> torch.Tensor:
    """base + sum_i weight_i (expert_i - base) + the change that the genome's mutations make.

    genome: JSON as `mergekit_config.merge_configuration` writes it. Its coefficients are those in `weight`, and its
    experts are the models beside the base, in their order.
    """
    base = group.base.tensor
    total = None
    for entry in group.non_base:
        term = (entry.tensor - base) * weight[entry.id]
        total = term if total is None else total.add_(term)
    references = tuple(entry.id for entry in group.non_base)
    if not all(isinstance(reference, ModelReference) for reference in (group.base.id, *references)):
        raise ValueError("method cycleqd merges checkpoints named by model references, not state dicts")
    materialiser, parsed, weights = _opened(group.base.id, references, genome)
    change = materialiser.change(parsed, weights[group.metadata.name])
    if change is not None:
        total = change if total is None else total.add_(change.to(base.device))
    return base if total is None else base + total


@lru_cache(maxsize=1)
def _opened(
    base_reference: ModelReference, references: tuple[ModelReference, ...], text: str
) -> tuple[Materialiser, Genome, dict[str, Weight]]:
    """The materialiser over the configuration's models, opened once per merge."""
    record = json.loads(text)
    genome = Genome.from_json(record)
    models = Models(vocabulary=record["vocabulary"])
    setting = TypeAdapter(Evolution).validate_python({"groups": record["groups"]}).groups
    base = Checkpoint(base_reference)
    experts = tuple(Expert(str(ref), ref, open_expert(ref, base, models)) for ref in references)
    family = Family(base, experts, models)
    mutated = sorted({mutation.expert for mutation in genome.mutations if mutation.expert is not None})
    materialiser = Materialiser(family, Groups(family.weights, setting), prepare_bases(family, mutated))
    return materialiser, genome, {weight.name: weight for weight in family.weights}


register(
    merge_method(
        cycleqd,
        name=METHOD,
        pretty_name="CycleQD",
        reference_url="https://arxiv.org/abs/2410.14735",
        contract=InputContract(base=BasePolicy.REQUIRED),
    )
)
