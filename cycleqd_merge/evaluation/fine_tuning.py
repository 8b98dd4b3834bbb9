"""Fine-tunes the experts' merge in this process, and writes the model as a checkpoint."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import torch

from cycleqd_merge.evaluation.fit_memory import fit_memory, free_memory
from cycleqd_merge.evaluation.fits import deterministic, fit_dtype, fitting_of, free_unused, opened_fit
from cycleqd_merge.files import new_folder
from cycleqd_merge.fitting.fine_tuning import FineTuning, Length, fine_tune
from cycleqd_merge.fitting.job import FitJob
from cycleqd_merge.merging.candidates import write_checkpoint
from cycleqd_merge.merging.family import ModelFamily
from cycleqd_merge.merging.materialise import Materialiser

_STATE = 12
"""Bytes per parameter of an optimiser's state in float32: two moments, and a copy of the parameter."""


def fine_tuned_model(materialiser: Materialiser, job: FitJob, rate: float, length: Length, folder: Path) -> FineTuning:
    """Fine-tune the base plus `job.settings.start` times the sum of the task vectors, all weights, on a fit's examples.

    folder: of the checkpoint, in the base's names and dtypes; it appears once it is complete.

    Raises:
        ModelError: transformers cannot load the model, or not place its tensors.
        RecipeError: the folder cannot be written.
    """
    job, device, start = replace(job, scales="none"), materialiser.device, time.perf_counter()
    family, dtype = materialiser.family, fit_dtype(materialiser.device)
    state = sum(prod(weight.shape) for weight in family.weights) * (_STATE + dtype.itemsize)
    free_unused(device)
    free, host = free_memory(device)
    memory = fit_memory(materialiser, [job], dtype, max(0, free - state), host)
    with deterministic(), opened_fit(materialiser, job, replace(memory, room=0)) as (fitted, layout):
        fitting = fitting_of(materialiser, job, fitted, layout)
        if job.settings.loss == "distillation":
            fitting.teach()
        fitted.set(layout.start(job.settings.start, device))
        fitted.close()  # gradients of all weights are needed now, not those of a fit's values
        found = fine_tune(fitting, fitted.model, rate, length, start)
        with new_folder(folder) as unfinished:
            write_checkpoint(_stored(fitted.model, family), family, unfinished)
        del fitting, fitted  # its memory is freed here, before engines start again
    return found


def _stored(model: Any, family: ModelFamily) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a checkpoint that the model has, by their stored names; the others are the base's."""
    resident, name_map = model.state_dict(), family.name_map(model)
    for weight in family.weights:
        name = family.stored_names[weight.name]
        found = name_map.read(resident, name) if name in name_map.parts else family.base_tensor(weight)
        yield name, found.to("cpu", weight.dtype)
