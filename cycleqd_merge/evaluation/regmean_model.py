"""Merges the experts by RegMean in this process, and writes the model as a checkpoint."""

from __future__ import annotations

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
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.staging import Staging

_SHARE = 4
"""The Gram matrices of one expert take at most one part in this many of the free memory: sums and products come on
top."""


def regmean_model(materialiser: Materialiser, job: FitJob, off_diagonal: float, folder: Path) -> None:
    """Merge the experts by RegMean, each on its own examples of a fit; see `regmean_task_vectors`.

    An expert that no task of the fit has as its teacher sees the examples of all tasks. folder: of the checkpoint, in
    the base's names and dtypes; it appears once it is complete.

    Raises:
        ModelError: transformers cannot load the model, or not place its tensors.
        RecipeError: the folder cannot be written.
    """
    family, device = materialiser.family, materialiser.device
    free_unused(device)
    model = load_model(family, fit_dtype(device), "regmean").to(device)
    staging = Staging(family, {}, device)
    examples = [_examples(job, number) for number in range(len(family.experts))]
    most = free_memory(device) // _SHARE
    with deterministic():
        merged: dict[str, torch.Tensor] = {}
        vectors = regmean_task_vectors(model, family.name_map(model), staging, examples, off_diagonal, most)
        for weight, vector in vectors:
            tensor = family.base_tensor(weight).float() + vector.cpu().reshape(weight.shape)
            merged[weight.name] = tensor.to(weight.dtype)
    del model, vectors  # its memory is freed here, before engines start again
    free_unused(device)
    tensors = (
        (family.stored_names[weight.name], merged[weight.name] if weight.name in merged else family.base_tensor(weight))
        for weight in family.weights
    )
    with new_folder(folder) as unfinished:
        write_checkpoint(tensors, family, unfinished)


def _examples(job: FitJob, expert: int) -> list[Example]:
    own = [task for task in job.tasks if task.expert == expert] or job.tasks
    return [example for task in own for example in task.examples]
