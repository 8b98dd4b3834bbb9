"""Merges the experts by RegMean in this process, and writes the models as checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from cycleqd_merge.evaluation.fit_memory import free_memory
from cycleqd_merge.evaluation.fits import deterministic, fit_dtype, free_unused
from cycleqd_merge.evaluation.loaded_model import load_model
from cycleqd_merge.files import new_folder
from cycleqd_merge.fitting.examples import Example
from cycleqd_merge.fitting.job import FitJob
from cycleqd_merge.fitting.regmean import regmean_task_vectors
from cycleqd_merge.merging.candidates import write_checkpoint
from cycleqd_merge.merging.family import ModelFamily
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.staging import Staging

_PARTS = 4
"""The Gram matrices of one expert take one part in this many of the free memory: sums and products take the others."""


def write_regmean_models(
    materialiser: Materialiser, job: FitJob, off_diagonal: float, folders: Mapping[float, Path]
) -> None:
    """Merge the experts by RegMean, each on its own examples of a fit; see `regmean_task_vectors`.

    An expert that no task of the fit has as its teacher sees the examples of all tasks. The merged task vectors are in
    host memory in float32. folders: by factor of these, of the checkpoint in the base's names and dtypes, which appears
    once it is complete.

    Raises:
        ModelError: transformers cannot load the model, or not place its tensors.
        RecipeError: a folder cannot be written.
    """
    family, device = materialiser.family, materialiser.device
    free_unused(device)
    model = load_model(family, fit_dtype(device), "regmean").to(device)
    staging, most = Staging(family, {}, device), free_memory(device)[0] // _PARTS
    examples = [_examples(job, number) for number in range(len(family.experts))]
    with deterministic():
        found = regmean_task_vectors(model, family.name_map(model), staging, examples, off_diagonal, most)
        vectors = {weight.name: vector.cpu() for weight, vector in found}
    del model, staging, found  # its memory is freed here, before engines start again
    free_unused(device)
    for scale, folder in folders.items():
        with new_folder(folder) as unfinished:
            write_checkpoint(_scaled(family, vectors, scale), family, unfinished)


def _examples(job: FitJob, expert: int) -> list[Example]:
    own = [task for task in job.tasks if task.expert == expert] or job.tasks
    return [example for task in own for example in task.examples]


def _scaled(
    family: ModelFamily, vectors: Mapping[str, torch.Tensor], scale: float
) -> Iterator[tuple[str, torch.Tensor]]:
    """The base plus `scale` times the task vectors, by stored names."""
    for weight in family.weights:
        tensor = family.base_tensor(weight)
        if weight.name in vectors:
            tensor = (tensor.float() + scale * vectors[weight.name].reshape(weight.shape)).to(weight.dtype)
        yield family.stored_names[weight.name], tensor
