"""Learns fits in this process, on the device that the engine has left."""

from __future__ import annotations

import gc
import hashlib
import itertools
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from cycleqd_merge.config.evolution import LayerGroupsConfig
from cycleqd_merge.errors import ModelError
from cycleqd_merge.evaluation.engines.engine import Engine
from cycleqd_merge.evaluation.fit_memory import ALONE, FitMemory, Sharers, fit_memory, free_memory, used_memory
from cycleqd_merge.evaluation.loaded_model import load_model, skips_padding
from cycleqd_merge.fitting.fitted_model import FittedModel
from cycleqd_merge.fitting.job import FitJob, FitResult
from cycleqd_merge.fitting.layout import Layout
from cycleqd_merge.fitting.progress import KeptProgress
from cycleqd_merge.fitting.scaled import Sizes, scaled
from cycleqd_merge.fitting.training import Fitting, Progress
from cycleqd_merge.merging.bases import prepare_bases
from cycleqd_merge.merging.family import ModelFamily
from cycleqd_merge.merging.fits import LARGEST, Along, Fit, keep_fit, read_fit
from cycleqd_merge.merging.groups import Groups
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.processes import from_main_process, this_process
from cycleqd_merge.merging.sizes import FLOAT32
from cycleqd_merge.merging.staging import Staging
from cycleqd_merge.merging.tokenizers import family_tokenizer

log = logging.getLogger(__name__)
_METHOD = "fit/3"
"""Raise it with any change that alters the values of a fit: progress of an older version is then not resumed."""


def learn_fits(materialiser: Materialiser, jobs: Sequence[FitJob], sharers: Sharers = ALONE) -> Iterator[FitResult]:
    """The results of jobs, in order. The models are opened once for all jobs that differ in weights or steps alone.

    Raises:
        ModelError: a model cannot be fitted, see `open_fit`; or the fit that a job starts from does not suit it.
    """
    for _, group in itertools.groupby(jobs, _opened_for):
        alike, device, start = list(group), materialiser.device, time.perf_counter()
        memory = fit_memory(materialiser, alike, fit_dtype(device), *free_memory(device, sharers))
        log.debug("fits %s: %s", [job.number for job in alike], memory)
        with deterministic(), opened_fit(materialiser, alike[0], memory) as (model, layout):
            fitting = fitting_of(materialiser, alike[0], model, layout, rounded=device.type == "cuda")
            for job in alike:
                yield _learned(materialiser, job, fitting, layout, start)
                start = time.perf_counter()
            del fitting, model  # their memory is freed here, before the next fits or the engine need it


def _opened_for(job: FitJob) -> tuple[object, ...]:
    """What the opened models, and the experts' predictions, depend on."""
    settings = job.settings
    examples = [(task.expert, task.examples) for task in job.tasks]
    return job.coefficients, job.scales, settings.loss, settings.likely, settings.width, examples


@dataclass
class Switch:
    """How an engine was released and restored.

    seconds: by "release", with the start of other processes, and "restore". mib: memory that it freed.
    """

    start: float = field(default_factory=time.perf_counter)
    seconds: dict[str, float] = field(default_factory=dict)
    mib: float = 0.0

    def ready(self) -> None:
        """Note that everything is ready for the first fit."""
        self.seconds["release"] = time.perf_counter() - self.start

    def counted(self, result: FitResult, part: str) -> FitResult:
        """A result with the seconds of one part."""
        return replace(result, seconds={**result.seconds, part: self.seconds[part]}, released_mib=self.mib)


@contextmanager
def released(engine: Engine, device: torch.device) -> Iterator[Switch]:
    """Without the engine's memory, which is measured. After an error the engine stays released: it can only be closed.

    Raises:
        EngineLost: it cannot be restored.
    """
    switch, before = Switch(), used_memory(device)
    engine.release()
    free_unused(device)
    switch.mib = (before - used_memory(device)) / 2**20
    yield switch
    start = time.perf_counter()
    engine.restore()
    switch.seconds["restore"] = time.perf_counter() - start


def free_unused(device: torch.device) -> None:
    """Return memory that is not in use any more to the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def fit_dtype(device: torch.device) -> torch.dtype:
    """Of a fit's forward and backward pass: on a GPU bfloat16. Values and their gradient are float32 everywhere."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def fitting_of(
    materialiser: Materialiser, job: FitJob, model: FittedModel, layout: Layout, rounded: bool = False
) -> Fitting:
    """The fitting of an opened model to a job's examples. rounded: see `Fitting`."""
    device, pad, padded = materialiser.device, padding_token(materialiser.family), skips_padding(model.model)
    return Fitting(model, layout, job.tasks, job.settings, pad, device, padded, rounded)


def _learned(materialiser: Materialiser, job: FitJob, fitting: Fitting, layout: Layout, start: float) -> FitResult:
    """The result of a job. start: when it began; "teach" counts from there, since the model had to be opened."""
    settings = job.settings
    kept = KeptProgress(fit_digest_of(job, materialiser, layout))
    fitting.again(job.tasks, settings)
    main = this_process().is_main_process
    first = first_progress(layout, job)
    first_values = first.values.clone()  # steps change the progress in place
    progress = (from_main_process(kept.read(layout.size) if main else None) or first).to(materialiser.device)
    if settings.loss == "distillation" and len(progress.losses) < settings.steps:
        fitting.teach()
    taught = time.perf_counter() - start
    save = partial(kept.write, steps=settings.steps) if main else lambda progress: None
    progress = fitting.run(progress, first_values, save)
    content = layout.fit(progress.values).to_bytes()
    if main and math.isfinite(progress.losses[-1]):
        keep_fit(content)
    seconds = {"teach": taught, "train": progress.seconds}
    losses, restarts = tuple(progress.losses), progress.restarts
    return FitResult(job.number, content, losses, progress.tokens, seconds, restarts=restarts, progress=kept.digest)


def padding_token(family: ModelFamily) -> int:
    """The id of the token that fills the shorter examples of a batch."""
    tokenizer = family_tokenizer(family)
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (tokenizer.eos_token_id or 0)


def layout_of(job: FitJob, materialiser: Materialiser, along: Along, sizes: Sizes) -> Layout:
    """The layout of a job's values. along, sizes: see `scaled`."""
    family = materialiser.family
    names = [weight.name for weight in family.weights]
    return Layout.of(names, _label(job, materialiser), len(family.experts), along, sizes)


def _label(job: FitJob, materialiser: Materialiser) -> Callable[[str], str]:
    """Tensors with the same label share a coefficient."""
    if job.coefficients == "tensor":
        return str
    each_layer = Groups(materialiser.family.weights, LayerGroupsConfig(layers=1))
    groups = materialiser.groups if job.coefficients == "group" else each_layer
    return lambda name: groups.labels[groups.of(name)]


@contextmanager
def opened_fit(materialiser: Materialiser, job: FitJob, memory: FitMemory) -> Iterator[tuple[FittedModel, Layout]]:
    """The base model on the materialiser's device, ready to be fitted, and the layout of the values.

    Raises:
        ModelError: transformers cannot load the model, or not place its tensors; or a fit of it would be too large.
    """
    family, device = materialiser.family, materialiser.device
    materialiser = with_bases(materialiser, job)
    model = load_model(family, fit_dtype(device), "fit").to(device)
    if memory.checkpointing:
        enable_checkpointing(model)
    staging = Staging(family, materialiser.bases, device, memory.place)
    name_map = family.name_map(model)
    layout = layout_of(job, materialiser, *scaled(job.scales, model, name_map, staging))
    if layout.size * FLOAT32 > LARGEST:
        raise ModelError(
            f"fit: its {layout.size} values take more than {LARGEST // 2**20} MiB; set fit.scales to none, or merge "
            "fewer experts"
        )
    record = memory.record and skips_padding(model)  # without padding, passes have too many shapes to record each
    fitted = FittedModel(model, name_map, staging, layout, room=memory.room, keep=record)
    try:
        yield fitted, layout
    finally:
        fitted.close()
        del fitted, staging, model
        free_unused(device)


def with_bases(materialiser: Materialiser, job: FitJob) -> Materialiser:
    """A materialiser with the singular bases of all experts, if the job scales singular directions."""
    family = materialiser.family
    experts = range(len(family.experts))
    if job.scales != "singular" or all(expert in materialiser.bases for expert in experts):
        return materialiser
    bases = prepare_bases(family, experts, rank=materialiser.rank)
    return Materialiser(family, materialiser.groups, bases, materialiser.device)


def enable_checkpointing(model: Any) -> None:
    """Compute every layer's activations again in the backward pass. Does nothing for models that cannot.

    Only the layers themselves are in training mode, which transformers requires: what is in them stays as in use.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    if not model.supports_gradient_checkpointing:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the name that every 5.x has is deprecated in later ones
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.training = True
            for name, value in vars(module).items():
                if "dropout" in name and isinstance(value, float):
                    setattr(module, name, 0.0)


@contextmanager
def deterministic() -> Iterator[None]:
    """Let torch choose operations that give the same bits each time, where it has them."""
    settings: Any = torch.utils.deterministic  # type: ignore[attr-defined, unused-ignore]
    before, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filling = settings.fill_uninitialized_memory
    attention = torch.backends.cuda.cudnn_sdp_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cuda.enable_cudnn_sdp(False)  # its backward pass differs from run to run
    settings.fill_uninitialized_memory = False  # nothing reads such memory; filling it takes time
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warns)
        torch.backends.cuda.enable_cudnn_sdp(attention)
        settings.fill_uninitialized_memory = filling


def first_progress(layout: Layout, job: FitJob) -> Progress:
    """The progress before the first step.

    Raises:
        ModelError: the fit that the job starts from is missing, or is one of other values.
    """
    first = Progress.first(layout, job.settings)
    if job.start is not None:
        first.values.copy_(values_of(read_fit(job.start), layout))
    return first


def values_of(fit: Fit, layout: Layout) -> torch.Tensor:
    """The values of a fit, shape (size,), float32: the inverse of `Layout.fit`.

    Tensors that share a coefficient have the same one in the fit; if they do not, it is their mean.

    Raises:
        ModelError: the fit has other tensors, experts or scales.
    """
    found, wanted = ({n: dict(each) for n, each in sizes.items()} for sizes in (fit.sizes, layout.sizes))
    same = fit.tensors == layout.tensors and len(fit.coefficients) == layout.experts
    if not same or (fit.along, found) != (layout.along, wanted):
        raise ModelError(
            "fit: the fit to start from was learned with different models or settings; start a new run (--fresh)"
        )
    labels = np.array(layout.labels)
    coefficients = np.stack([fit.coefficients[:, labels == each].mean(1) for each in range(1 + labels.max())], 1)
    scales = [fit.scales[expert] for expert in layout.sizes]
    return torch.from_numpy(np.concatenate([coefficients.ravel(), *scales]))


def fit_digest_of(job: FitJob, materialiser: Materialiser, layout: Layout) -> str:
    """A digest of everything that a fit's values depend on; not its number, and not how it is divided into passes."""
    family = materialiser.family
    settings = replace(job.settings, width=0)
    parts = [_METHOD, family.base.digest, family.models.vocabulary, *(expert.digest for expert in family.experts)]
    parts += [str(materialiser.rank), materialiser.device.type, str(layout.labels), layout.along, str(layout.sizes)]
    parts += [job.coefficients, job.scales, str(job.start), str(settings), str(job.tasks)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
