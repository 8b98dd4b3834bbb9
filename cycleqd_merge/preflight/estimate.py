"""Estimates of a run's time and memory, from one measured evaluation on the engine that the run will use."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

import numpy as np
import psutil
import torch

from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.config.strategies import mutates
from cycleqd_merge.evaluation.engines.placement import host_memory
from cycleqd_merge.evaluation.opened_recipe import OpenedRecipe
from cycleqd_merge.evaluation.pools.cluster import worker_count
from cycleqd_merge.evaluation.pools.pool import learn
from cycleqd_merge.evaluation.worker import Evaluation, Worker
from cycleqd_merge.evolution.genome import MOST_MIXTURES, Genome, Mixture, Mutation, mutate
from cycleqd_merge.fitting.examples import Example
from cycleqd_merge.fitting.job import FitJob, FitResult
from cycleqd_merge.fitting.training import FitTask
from cycleqd_merge.merging.bases import Rank, compute_basis, missing_bases
from cycleqd_merge.merging.directions import DRAWS_KEPT
from cycleqd_merge.merging.family import ModelFamily
from cycleqd_merge.merging.sizes import FLOAT32, directions, largest_tensor_bytes, model_bytes
from cycleqd_merge.preflight.plan_result import FitSummary, MemoryUse, TimeEstimate
from cycleqd_merge.run.learn import fit_settings
from cycleqd_merge.tasks.protocol import Split
from cycleqd_merge.tasks.suite import Suite
from cycleqd_merge.tasks.targets import fitted_tasks

_SETTLED = 10.0  # seconds after which the cost of a first evaluation (caches, allocations) no longer affects the mean
_MAX_REPEATS = 6
_WARM_UP, _FIT_STEPS = 3, 2  # of fits; more steps of warm-up, so that the passes of the measured ones are not the first
_SMALL = 0.01  # scale of a mutation that costs as much as any other but changes no answer
_VLLM_SEQUENCES = 256
_VLLM_SHARE = 0.9  # of a GPU's memory, which vLLM takes by default


@dataclass(frozen=True)
class FitTrial:
    """A measured fit of a few steps.

    start: seconds that fits of one opened model take besides their steps: to release and restore the engine, open the
    model, let the experts predict their answers, and warm up (on a GPU, to record the passes). step: seconds of a
    later step. tokens: per step, without padding.
    """

    start: float
    step: float
    tokens: float


@dataclass(frozen=True)
class Trial:
    """A measured evaluation: seconds, and peaks of memory in bytes."""

    opened: float
    load: float
    search: float
    confirm: float
    heldout: float
    resident: int
    host_peak: int
    device_peak: int
    fit: FitTrial | None = None


def available_memory() -> int:
    """Bytes of memory that this process can use in total."""
    return int(host_memory() + psutil.Process().memory_info().rss)


def representative(opened: OpenedRecipe, mutated: Sequence[int]) -> Genome:
    """A child like those of a run: the plain mean of the experts, with a mutation along each of `mutated`."""
    experts, groups = len(opened.family.experts), len(opened.groups)
    genome = Genome(np.full((experts, groups), 1.0 / experts), (), np.zeros((0, groups)))
    mutations = [Mutation("svd", expert, seed=expert, scale=_SMALL) for expert in mutated]
    if opened.recipe.evolution.mutation.kind == "gaussian":
        mutations.append(Mutation("gaussian", None, seed=0, scale=opened.recipe.evolution.mutation.std))
    if along_child(opened.recipe):  # as many as a child can have
        mixture = Mixture.of(genome)
        mutations += [Mutation("svd", None, experts + n, _SMALL, of=mixture) for n in range(MOST_MIXTURES + 1)]
    for mutation in mutations:
        genome = mutate(genome, mutation)
    return genome


def along_child(recipe: Recipe) -> bool:
    """Whether children are mutated along the singular directions of their own task vectors."""
    mutation = recipe.evolution.mutation
    return mutates(recipe.strategy) and mutation.kind == "svd" and mutation.of == "child"


def bases_seconds(family: ModelFamily, mutated: Sequence[int], rank: Rank) -> float:
    """Seconds to compute the missing singular bases, from one of each shape; the computed ones are cached."""
    left = 0.0
    for expert in mutated:
        seconds: dict[tuple[int, ...], float] = {}
        for weight in missing_bases(family, expert, rank):
            if weight.shape in seconds:
                left += seconds[weight.shape]
            else:
                start = time.perf_counter()
                compute_basis(family, expert, weight, rank)
                seconds[weight.shape] = time.perf_counter() - start
    return left


def try_out(opened: OpenedRecipe, mutated: Sequence[int]) -> Trial:
    """Load and score one representative child as a run will, on the search and confirmation splits."""
    start = time.perf_counter()
    worker = opened.worker(opened.materialiser(mutated))
    try:
        opening, resident = time.perf_counter() - start, peak_memory()
        device = _device(opened)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        genome = representative(opened, mutated)
        searched = _settled(worker, genome, [] if opened.recipe.fit is None else fitted_tasks(opened.suite))
        search = statistics.median(evaluation.score_seconds for evaluation in searched)
        confirming = _confirming(worker, genome, opened)
        load = (confirming or searched[-1]).load_seconds  # the first one opens the files too
        fit = _try_fit(worker, opened, searched[-1].examples)
        confirm, row = _per_row(opened.suite, search, confirming)
        heldout = row * _rows(opened.suite, "heldout")
        on_device = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
        return Trial(opening, load, search, confirm, heldout, resident, peak_memory(), on_device, fit)
    finally:
        worker.close()


def _try_fit(worker: Worker, opened: OpenedRecipe, examples: Mapping[str, Sequence[Example]]) -> FitTrial | None:
    """Learn a fit of a few steps to warm up, and one to measure, from the answers of the measured child.

    These are about as long as the experts'. None if the recipe has no fits, or no answer was recorded.

    Raises:
        InfrastructureError: it failed, as the run's fits would.
    """
    fit, experts = opened.recipe.fit, list(opened.recipe.experts)
    if fit is None or not any(examples.values()):
        return None
    own = {task.name: 0 if task.use.expert is None else experts.index(task.use.expert) for task in opened.suite}
    tasks = tuple(FitTask(name, own[name], tuple(found)) for name, found in examples.items() if found)
    settings = fit_settings(fit, 0, seed=0)
    jobs = [
        FitJob(number, tasks, replace(settings, steps=steps), fit.coefficients, fit.scales)
        for number, steps in enumerate((_WARM_UP, _FIT_STEPS))
    ]
    results: list[FitResult] = []
    learn(worker, jobs, results.append)
    for result in results:
        worker.forget(result.progress)  # the next plan measures again
    step = results[1].seconds["train"] / _FIT_STEPS
    whole = sum(sum(result.seconds.values()) for result in results)
    lengths = [statistics.mean(len(example.tokens) for example in task.examples) for task in tasks]
    return FitTrial(max(0.0, whole - (_WARM_UP + _FIT_STEPS) * step), step, fit.rows * sum(lengths))


def fit_seconds(trial: FitTrial, fit: FitSummary) -> float:
    """Seconds to learn all fits of a run, one after the other: the first one, and then the others with one model."""
    return min(fit.fits, 2) * trial.start + fit.steps * trial.step


def _settled(worker: Worker, genome: Genome, record: Sequence[str]) -> list[Evaluation]:
    """Evaluations on the search split; quick ones are repeated, and the slow first one is then left out.

    record: tasks of which examples are recorded, see `Worker.evaluate`.
    """
    start = time.perf_counter()
    evaluations = [worker.evaluate(genome, record=record)]
    while time.perf_counter() - start < _SETTLED and len(evaluations) < _MAX_REPEATS:
        worker.prepare(genome)
        evaluations.append(worker.evaluate(genome, record=record))
    return evaluations[1:] or evaluations


def _confirming(worker: Worker, genome: Genome, opened: OpenedRecipe) -> Evaluation | None:
    """An evaluation on the confirmation split, on at most a full batch of it; None if the split is empty."""
    suite = opened.suite
    if not all(task.samples("confirm") for task in suite):
        return None
    rows = max(_batch(opened.recipe), _rows(suite, "search"))
    return worker.evaluate(genome, "confirm", ceil(rows / len(suite)))


def _per_row(suite: Suite, search: float, confirming: Evaluation | None) -> tuple[float, float]:
    """Seconds for the whole confirmation split, and for one row in the fuller of the measured batches."""
    per_row = search / _rows(suite, "search")
    if confirming is None:
        return 0.0, per_row
    done = sum(len(result.samples) for result in confirming.results.values())
    again = confirming.score_seconds / done
    return again * _rows(suite, "confirm"), min(per_row, again)


def _device(opened: OpenedRecipe) -> torch.device:
    """The device that the model runs on."""
    if opened.recipe.engine.kind == "vllm" and torch.cuda.is_available():
        return torch.device("cuda")
    return opened.materialiser(()).device


def _batch(recipe: Recipe) -> int:
    """Prompts that the engine answers at once."""
    return recipe.engine.batch_size if recipe.engine.kind == "transformers" else _VLLM_SEQUENCES


def _rows(suite: Suite, rows: Split) -> int:
    return sum(len(task.samples(rows)) for task in suite)


def time_of(recipe: Recipe, trial: Trial, evaluations: int, setup: float, bases: float) -> TimeEstimate:
    """The time of a run. evaluations: number left. setup: seconds from the start to the first evaluation."""
    founders_and_children = len(recipe.experts) + recipe.evolution.generations
    objectives = sum(use.role == "optimise" for use in recipe.tasks)
    confirmed = min(founders_and_children, recipe.confirm.top + objectives) if trial.confirm else 0
    finish = len(recipe.finish.export) * (2 * trial.opened + trial.load)
    if recipe.finish.heldout:
        models = len(recipe.experts) + 4  # base, plain mean, best-mean elite, aggregate
        finish += trial.opened + models * (trial.load + trial.heldout)
    return TimeEstimate(
        evaluation=trial.load + trial.search,
        load=trial.load,
        evaluations=evaluations,
        setup=setup,
        bases=bases,
        confirm=confirmed * (trial.load + trial.confirm),
        finish=finish,
        workers=worker_count(recipe),
    )


def memory_of(opened: OpenedRecipe, trial: Trial | None, available: int) -> list[MemoryUse]:
    """Memory of a worker: measured by `trial`, otherwise the minimum for its weights."""
    device = _device(opened)
    model = model_bytes(opened.family)
    on_device = model + _transient(opened)
    if trial is None:
        host = peak_memory() + (on_device if device.type == "cpu" else 0)
    else:
        host, on_device = _host_peak(opened, trial, model), trial.device_peak
    uses = [MemoryUse("host", host, available, trial is not None)]
    if device.type == "cuda":
        free, whole = torch.cuda.mem_get_info(device)
        held = torch.cuda.memory_reserved(device)
        engine = opened.recipe.engine
        if engine.kind == "vllm":  # its processes reserve a share of the GPU, whatever the model needs
            on_device = max(on_device, int(whole * engine.options.get("gpu_memory_utilization", _VLLM_SHARE)))
        uses.append(MemoryUse(str(device), on_device, free + held, trial is not None))
    return uses


def _host_peak(opened: OpenedRecipe, trial: Trial, model: int) -> int:
    """The peak of the trial plus what only a whole run needs: cached draws, fuller batches, verifying an export."""
    recipe, suite = opened.recipe, opened.suite
    answering = trial.host_peak - trial.resident
    if recipe.finish.heldout:
        batch = _batch(recipe)
        tried, due = (min(batch, rows) for rows in (_tried(suite), _rows(suite, "heldout")))
        answering = answering * max(tried, due) // tried
    peak = trial.resident + answering + _draws(opened)
    return max(peak, trial.resident + 2 * model) if recipe.finish.export else peak


def _tried(suite: Suite) -> int:
    """The largest number of rows that the trial answered in one go."""
    return max(_rows(suite, "search"), _rows(suite, "confirm"))


def _draws(opened: OpenedRecipe) -> int:
    """Bytes of cached random draws of mutations: one float32 per singular direction and generation."""
    if opened.recipe.evolution.mutation.kind != "svd" or along_child(opened.recipe):
        return 0
    matrices = [weight for weight in opened.family.weights if weight.is_matrix]
    most = max(
        sum(directions(weight, expert, opened.recipe.rank) for weight in matrices) for expert in opened.family.experts
    )
    return min(DRAWS_KEPT, opened.recipe.evolution.generations * most * FLOAT32)


def _transient(opened: OpenedRecipe) -> int:
    """Bytes of the largest tensor and its task vectors while it is built, in float32; of a decomposition in float64."""
    decomposed = 6 if along_child(opened.recipe) else 0  # task vector, Gram matrix and singular vectors, at most
    return largest_tensor_bytes(opened.family) * (len(opened.family.experts) + 2 + decomposed)


def peak_memory() -> int:
    """The peak memory of this process, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
