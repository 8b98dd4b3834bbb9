"""The merge method `cycleqd` for mergekit: task arithmetic plus a genome's mutations and fits.

Importing this module registers the method with mergekit: `cycleqd-merge merge` imports it, `mergekit-yaml` does not.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from mergekit.common import ModelReference
from mergekit.merge_methods import InputContract, PerNonBase, TensorGroup, merge_method, register
from mergekit.merge_methods.base import BasePolicy
from pydantic import TypeAdapter, ValidationError

from cycleqd_merge.config.evolution import GroupsConfig
from cycleqd_merge.config.recipe import ModelsConfig, PinnedModels
from cycleqd_merge.errors import ModelError, first_line
from cycleqd_merge.evolution.genome import Genome
from cycleqd_merge.merging.bases import ExpertBases, Rank
from cycleqd_merge.merging.checkpoint import Weight
from cycleqd_merge.merging.fit_files import MODEL_FITS, keep_fits, require_fits
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.materialiser_spec import MaterialiserSpec, open_materialiser
from cycleqd_merge.merging.mergekit_config import MERGE_METHOD
from cycleqd_merge.strict_json import loads

log = logging.getLogger(__name__)
_opening: ContextVar[ModelsConfig] = ContextVar("opening")
"""How the models of the merge in progress are opened: mergekit passes a method nothing but a configuration's values."""


@dataclass(frozen=True)
class MutationsParameter:
    """The parameter `mutations` of a configuration: a genome without its coefficients, and the settings that it needs.

    rank: how the singular bases were truncated. bases: digests of those that the model was first built on, by expert
    number. originals: by reference to a copy in the vocabulary of `vocabulary: union`, the model that it is a copy of.
    """

    genome: Genome
    groups: GroupsConfig
    vocabulary: str
    rank: Rank
    bases: dict[int, str]
    originals: dict[str, str]

    @classmethod
    def parse(cls, text: str, experts: int) -> MutationsParameter:
        """Parse the JSON that `mergekit_config` writes.

        Raises:
            ModelError: it has a different form.
        """
        try:
            record = loads(text)
            changes = [*record["mutations"], *record.get("fits", [])]
            groups = len(changes[0]["share"]) if changes else 1
            genome = Genome.from_json({**record, "coefficients": np.zeros((experts, groups)).tolist()})
            if any(mutation.expert is not None and mutation.expert >= experts for mutation in genome.mutations):
                raise ValueError(f"a mutation of an expert beyond the {experts} models")
            setting = TypeAdapter(GroupsConfig).validate_python(record["groups"])
            bases = {int(number): digest for number, digest in record["bases"].items()}
            return cls(genome, setting, record["vocabulary"], record["rank"], bases, record.get("originals", {}))
        except (ValueError, LookupError, TypeError, AttributeError, ValidationError) as error:
            what = f"invalid parameter `mutations`: {first_line(error)}"
            raise ModelError(f"method {MERGE_METHOD}: {what}; copy it unchanged from an exported model") from error


def cycleqd(group: TensorGroup, weight: PerNonBase[float], mutations: str) -> torch.Tensor:
    """base + sum_i weight_i (expert_i - base) + the change by a genome's mutations and fits.

    mutations: see `MutationsParameter`; its experts are the models other than the base, in order.
    """
    base = group.base.tensor
    total = None
    for entry in group.non_base:
        term = (entry.tensor - base) * weight[entry.id]
        total = term if total is None else total.add_(term)
    references = tuple(entry.id for entry in group.non_base)
    if not all(isinstance(reference, ModelReference) for reference in (group.base.id, *references)):
        raise ValueError(f"method {MERGE_METHOD} merges models given by reference, not state dicts")
    materialiser, genome, weights = _open(group.base.id, references, mutations, _opening.get(ModelsConfig()))
    name = group.metadata.name
    change = (
        materialiser.change(genome, weights[name])
        if name in weights
        else _fused_change(materialiser, genome, name, base.shape)
    )
    if change is not None:
        total = change if total is None else total.add_(change.to(base.device))
    return base if total is None else base + total


def _fused_change(materialiser: Materialiser, genome: Genome, parameter: str, shape: torch.Size) -> torch.Tensor | None:
    """The change of a parameter that mergekit stacks or fuses from several tensors of the checkpoint; None if none.

    shape: of the parameter.
    """
    family = materialiser.family
    total = None
    for weight in family.weights:
        for part in family.base.name_map.parts.get(family.stored_names[weight.name], ()):
            change = materialiser.change(genome, weight) if part.parameter == parameter else None
            if change is not None:
                total = torch.zeros(shape, device=change.device) if total is None else total
                part.view(total).copy_(part.cut(change))
    return total


@lru_cache(maxsize=1)
def _open(
    base_reference: ModelReference, references: tuple[ModelReference, ...], text: str, settings: ModelsConfig
) -> tuple[Materialiser, Genome, dict[str, Weight]]:
    """A configuration's materialiser, genome and tensors by name; opened once per merge."""
    parameter = MutationsParameter.parse(text, len(references))
    named = [parameter.originals.get(str(reference), str(reference)) for reference in (base_reference, *references)]
    models, bases = models_of(parameter, named, settings), tuple(sorted(parameter.bases))
    materialiser = open_materialiser(MaterialiserSpec(models, parameter.groups, bases, parameter.rank))
    require_fits(parameter.genome.fits, materialiser.family)
    _warn_about_differences(materialiser.bases, parameter.bases)
    return materialiser, parameter.genome, {weight.name: weight for weight in materialiser.family.weights}


@contextmanager
def models_opened(settings: ModelsConfig) -> Iterator[None]:
    """Let the method open models with the code and the pickles that `settings` allows."""
    token = _opening.set(settings)
    try:
        yield
    finally:
        _opening.reset(token)


def models_of(parameter: MutationsParameter, references: Sequence[str], settings: ModelsConfig) -> PinnedModels:
    """A configuration's models: its base, then its experts. settings: the code and pickles that are allowed."""
    experts = {str(number): reference for number, reference in enumerate(references[1:], start=1)}
    allowed = settings.model_dump(include={"trust_remote_code", "pickles"})
    return PinnedModels(
        references[0], experts, ModelsConfig.model_validate({**allowed, "vocabulary": parameter.vocabulary})
    )


def _warn_about_differences(bases: Mapping[int, ExpertBases], wanted: Mapping[int, str]) -> None:
    """Warn if singular bases differ from those that the model was first built on."""
    for number, digest in wanted.items():
        if bases[number].digest != digest:
            log.warning(
                "the singular basis of expert %d differs from the one that the model was built on (%s, was %s): "
                "values may differ in the last digit",
                number + 1,
                bases[number].digest,
                digest,
            )


register(
    merge_method(
        cycleqd,
        name=MERGE_METHOD,
        pretty_name="CycleQD",
        reference_url="https://arxiv.org/abs/2410.14735",
        contract=InputContract(base=BasePolicy.REQUIRED),
    )
)


def register_mergekit_method(model: str | PathLike[str] | None = None) -> None:
    """Register the merge methods of this package with mergekit in this process.

    They are `cycleqd`, which configurations with mutations or fits need, and the static merges of `matrix_merges`.
    model: folder of an exported model, whose fits its configuration needs; they are put into the cache.

    Raises:
        ModelError: a fit is damaged.
    """
    import cycleqd_merge.merging.mergekit_matrix_merges  # noqa: F401  # `cycleqd` was registered by this module's import

    if model is not None:
        folder = Path(model) / MODEL_FITS
        keep_fits(folder, [path.stem for path in sorted(folder.glob("*.safetensors"))])
