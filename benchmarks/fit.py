"""Seconds per step and memory of a fit, and its ratio to a bare forward and backward pass of the same model and rows.

    python benchmarks/fit.py FOLDER                                           # Llama-3 8B's shape, 33 GB, one GPU
    python benchmarks/fit.py FOLDER --layers 2 --hidden 256 --vocabulary 1024 # a tiny one

Writes random models to FOLDER if it does not exist (see random_models.py), then fits two LoRA experts, and a full and a
LoRA expert. Without --place, memory decides where experts are kept.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch
import yaml
from random_models import add_shape, config, write_family

from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.evaluation.fit_memory import fit_memory, free_memory
from cycleqd_merge.evaluation.fits import deterministic, fit_dtype, fitting_of, opened_fit
from cycleqd_merge.fitting.examples import Example
from cycleqd_merge.fitting.job import FitJob
from cycleqd_merge.fitting.training import FitSettings, FitTask, Fitting, Progress
from cycleqd_merge.merging.family import open_family
from cycleqd_merge.merging.groups import Groups
from cycleqd_merge.merging.materialise import Materialiser

FAMILIES = {"two LoRA experts": ("one", "two"), "a full and a LoRA expert": ("full", "one")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    add_shape(parser)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rows", type=int, default=16, help="examples per task and step")
    parser.add_argument("--length", type=int, default=256, help="tokens of an example, half of which are trained")
    parser.add_argument("--width", type=int, default=8192)
    parser.add_argument("--scales", choices=["channel", "singular", "none"], default="channel")
    parser.add_argument("--place", choices=["device", "host", "disk"])
    parser.add_argument("--unrecorded", action="store_true", help="launch every operation by itself")
    options = parser.parse_args()
    folder = options.folder.resolve()
    if not folder.exists():
        write_family(folder, config(options.layers, options.hidden, options.vocabulary))
    for name, experts in FAMILIES.items():
        measure(name, folder, experts, options)


def measure(name: str, folder: Path, experts: tuple[str, ...], options: argparse.Namespace) -> None:
    """Print the figures of one family."""
    stated = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe = Recipe.model_validate({**stated, "experts": {each: stated["experts"][each] for each in experts}})
    family = open_family(recipe.pinned_models())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    materialiser = Materialiser(family, Groups(family.weights, "one"), {}, device)
    job = made_job(len(experts), int(family.base.config.vocab_size), options)
    memory = fit_memory(materialiser, [job], fit_dtype(device), *free_memory(device))
    if options.place:
        memory = replace(memory, place=options.place)
    if options.unrecorded:
        memory = replace(memory, record=False)
    start = time.perf_counter()
    with deterministic(), opened_fit(materialiser, job, memory) as (model, layout):
        fitting = fitting_of(materialiser, job, model, layout, rounded=device.type == "cuda")
        opened = timed(device, lambda: None) - start
        start = time.perf_counter()
        fitting.teach()
        taught = timed(device, lambda: None) - start
        progress = Progress.first(layout, job.settings).to(device)
        steps = [elapsed(device, partial(fitting._step, progress)) for _ in range(options.steps)]
        most = peak(device)
        model.close()
        bare = [elapsed(device, partial(bare_pass, model.model, fitting, number)) for number in range(options.steps)]
    tokens = progress.tokens / options.steps
    print(f"{name}: {layout.size} values, {tokens:.0f} tokens per step, {memory}")
    print(f"  opened in {opened:.1f} s, experts' predictions {taught:.1f} s, {most / 2**30:.1f} GiB at most")
    values = sha256(progress.values.cpu().numpy().tobytes()).hexdigest()[:16]
    print(f"  values {values} after losses of {progress.losses[0]:.6f} to {progress.losses[-1]:.6f}")
    print(f"  {median(steps):.3f} s per step; bare forward and backward {median(bare):.3f} s; ", end="")
    print(f"ratio {median(steps) / median(bare):.2f}", flush=True)


def made_job(tasks: int, vocabulary: int, options: argparse.Namespace) -> FitJob:
    """A job with random examples."""
    draw = random.Random(0)
    examples = tuple(
        Example(
            tuple(draw.randrange(3, vocabulary) for _ in range(options.length)),
            tuple(range(options.length // 2, options.length)),
        )
        for _ in range(2 * options.rows)
    )
    settings = FitSettings(steps=options.steps, rows=options.rows, width=options.width)
    fitted = tuple(FitTask(f"task {number}", number, examples) for number in range(tasks))
    return FitJob(0, fitted, settings, scales=options.scales)


def bare_pass(model: Any, fitting: Fitting, step: int) -> None:
    """The passes of a step without anything of a fit; every gradient is freed once it is complete, as in a fit."""

    def free(parameter: torch.Tensor) -> None:
        parameter.grad = None

    hooks = [p.register_post_accumulate_grad_hook(free) for p in model.parameters() if p.requires_grad]
    for batch, expert in fitting.batches(step):
        torch.autograd.backward(fitting.loss(model, batch, expert))
    for hook in hooks:
        hook.remove()


def timed(device: torch.device, work: Callable[[], None]) -> float:
    """The time after some work."""
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def elapsed(device: torch.device, work: Callable[[], None]) -> float:
    """Seconds that some work takes."""
    start = timed(device, lambda: None)
    return timed(device, work) - start


def peak(device: torch.device) -> int:
    """The most bytes that this process had: of the GPU's memory, or now of the host's."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss


if __name__ == "__main__":
    main()
