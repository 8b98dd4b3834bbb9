"""A worker learns fits in the memory of its engine, which answers afterwards as before."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from copy import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from transformers import AutoModelForCausalLM

from cycleqd_merge.cache import cache_folder
from cycleqd_merge.config.engines import TransformersEngineConfig
from cycleqd_merge.config.evolution import LayerGroupsConfig
from cycleqd_merge.errors import InfrastructureError, Interrupted, ModelError
from cycleqd_merge.evaluation.engines.placement import memory_needs
from cycleqd_merge.evaluation.engines.transformers_engine import TransformersEngine
from cycleqd_merge.evaluation.fit_memory import FitMemory, Sharers, fit_memory, free_memory
from cycleqd_merge.evaluation.fits import enable_checkpointing, learn_fits
from cycleqd_merge.evaluation.pools.pool import LocalPool
from cycleqd_merge.evaluation.worker import Worker
from cycleqd_merge.evolution.genome import expert_genome, fit_genome
from cycleqd_merge.fitting import progress as progress_module
from cycleqd_merge.fitting.fitted_model import FittedModel
from cycleqd_merge.fitting.job import FitJob, FitResult
from cycleqd_merge.fitting.progress import KeptProgress, progress_from_bytes, progress_to_bytes
from cycleqd_merge.fitting.training import FitSettings, FitTask, Fitting, Progress
from cycleqd_merge.merging.fits import Fit, keep_fit
from cycleqd_merge.merging.groups import Groups
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.materialiser_spec import MaterialiserSpec
from cycleqd_merge.merging.processes import this_process
from cycleqd_merge.tasks.protocol import Sampling
from tests.architectures import Architecture
from tests.fitting.test_training import examples
from tests.merging.conftest import Trio, llama
from tests.models import make_base, make_expert, make_recipe, open_recipe_family

__all__ = ["llama"]

TASKS = tuple(FitTask(f"task {number}", number, examples(number)) for number in range(3))
JOB = FitJob(0, TASKS, FitSettings(steps=8, rows=3))
PROMPTS = ["abc", "hello there", "0123456789"]


@pytest.fixture(scope="module")
def materialiser(llama: Trio) -> Materialiser:
    return llama.materialiser(LayerGroupsConfig(blocks=2))


def opened_worker(materialiser: Materialiser, processes: int = 1) -> Worker:
    engine = TransformersEngine(TransformersEngineConfig(device="cpu"), materialiser)
    return Worker(engine, [], materialiser, processes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def worker(materialiser: Materialiser) -> Iterator[Worker]:
    found = opened_worker(materialiser)
    yield found
    found.close()


def learned(worker: Worker, *jobs: FitJob) -> list[FitResult]:
    results: list[FitResult] = []
    LocalPool(worker).fit(jobs, results.append)
    return results


def answers(worker: Worker, candidate: Any) -> list[str]:
    engine = worker._engine
    engine.load(candidate)

    async def ask() -> list[str]:
        return [(await engine.complete(prompt, Sampling(max_new_tokens=12))).text for prompt in PROMPTS]

    return asyncio.run(ask())


def test_engine_fits_engine(worker: Worker, materialiser: Materialiser) -> None:
    candidate = expert_genome(1, 3, 3)
    before = answers(worker, candidate)
    first, second = learned(worker, JOB, replace(JOB, number=1, tasks=TASKS[:2]))
    assert answers(worker, candidate) == before
    assert [first.number, second.number] == [0, 1]
    assert len(first.losses) == 8
    assert first.tokens > 0
    assert {*first.seconds} == {"release", "teach", "train"}
    assert {*second.seconds} == {"teach", "train", "restore"}
    assert answers(worker, fit_genome(keep_fit(first.content), 3, 3)) != before


def test_fits_leave_no_model_behind(materialiser: Materialiser) -> None:
    """Other fits, and the engine, need its memory; fits that differ in weights or steps alone share it."""

    def alive() -> set[int]:
        gc.collect()
        return {id(each) for each in gc.get_objects() if type(each) is FittedModel}

    before = alive()
    jobs = [replace(JOB, settings=replace(JOB.settings, steps=steps)) for steps in (1, 2)]
    found = []
    for result in learn_fits(materialiser, [*jobs, replace(JOB, scales="none")]):
        KeptProgress(result.progress).remove()
        found.append(alive() - before)
    assert [len(each) for each in found] == [1, 1, 1]
    assert found[0] == found[1]
    assert alive() <= before


def killed_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Let fits be saved every 3 steps, and fail after `step`; later calls of `undo` end this."""
    write = KeptProgress.write

    def failing(self: KeptProgress, progress: Progress, steps: int) -> None:
        write(self, progress, steps)
        if len(progress.losses) == step:
            raise MemoryError("cannot allocate memory")

    monkeypatch.setattr(progress_module, "EVERY", 3)
    monkeypatch.setattr(KeptProgress, "write", failing)


def test_a_killed_fit_resumes_and_ends_as_the_whole_one(
    materialiser: Materialiser, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = replace(JOB, tasks=TASKS[1:])
    (whole,) = learned(worker, job)
    with monkeypatch.context() as patched:
        killed_at(patched, 7)
        broken = opened_worker(materialiser)
        with pytest.raises(InfrastructureError, match=r"^a fit failed: MemoryError: cannot .*; set fit.width to fewer"):
            learned(broken, job)
        broken.close()
    steps: list[int] = []
    with monkeypatch.context() as patched:
        step = Fitting._step
        patched.setattr(Fitting, "_step", lambda self, at: (steps.append(len(at.losses)), step(self, at))[1])
        (resumed,) = learned(worker, job)
    assert steps == [6, 7]  # of which step 6 was lost
    assert resumed.content == whole.content
    assert resumed.losses == whole.losses
    assert resumed.tokens == whole.tokens
    assert not list((cache_folder("fits") / "progress").glob("*.safetensors"))


def test_a_result_that_is_not_received_is_not_learned_again(
    materialiser: Materialiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(result: FitResult) -> None:
        raise Interrupted("stop")

    broken = opened_worker(materialiser)
    job = replace(JOB, tasks=TASKS[:1], settings=replace(JOB.settings, steps=2))
    with pytest.raises(Interrupted):
        LocalPool(broken).fit([job], refuse)
    monkeypatch.setattr(Fitting, "_step", None)
    assert len(learned(broken, job)[0].losses) == 2
    broken.close()


def test_a_fit_too_large_for_its_file_is_not_learned(
    materialiser: Materialiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cycleqd_merge.evaluation.fits.LARGEST", 4 * 2**10)
    with pytest.raises(ModelError, match=r"^fit: its \d+ values take more than 0 MiB; set fit\.scales to none"):
        next(learn_fits(materialiser, [JOB]))


READ_PADDING = {
    "rwkv": Architecture("rwkv", {"attention_hidden_size": 32}),
    "minimax": Architecture(
        "minimax",
        {"layer_types": ["linear_attention", "full_attention"], "num_local_experts": 2, "head_dim": 8, "block_size": 4},
    ),
}


@pytest.mark.parametrize("name", READ_PADDING)
def test_models_that_read_padding_learn_from_every_example_alone(name: str, tmp_path: Path) -> None:
    """Their sequence mixing ignores the attention mask, so a loss must not depend on the rows beside an example."""
    base = make_base(tmp_path / "base")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(READ_PADDING[name].config()).save_pretrained(base)
    experts = {name: make_expert(base, tmp_path / name, seed) for seed, name in enumerate(("first", "second"))}
    family = open_recipe_family(make_recipe(tmp_path, base, experts))
    materialiser = Materialiser(family, Groups(family.weights, "one"), {})
    task = FitTask("task", 0, examples(0))
    job = FitJob(0, (task,), FitSettings(steps=1, rows=10, loss="cross-entropy", start=0.0), scales="none")
    (result,) = learn_fits(materialiser, [job])
    KeptProgress(result.progress).remove()
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    total, wanted = sum(example.weight for example in task.examples), 0.0
    for example in task.examples:
        with torch.no_grad():
            logprobs = model(torch.tensor([example.tokens])).logits[0].log_softmax(-1)
        for place in example.trained:
            share = example.weight / total / len(example.trained)
            wanted -= share * logprobs[place - 1, example.tokens[place]].item()
    assert result.losses == (pytest.approx(wanted, rel=1e-5),)
    assert result.tokens == sum(len(example.tokens) for example in task.examples)


@pytest.mark.parametrize("shared", ["layer", "group"])
def test_tensors_share_coefficients(
    worker: Worker, materialiser: Materialiser, shared: Literal["layer", "group"]
) -> None:
    settings = replace(JOB.settings, steps=3, loss="cross-entropy")
    (result,) = learned(worker, replace(JOB, settings=settings, coefficients=shared, scales="none"))
    fit = Fit.from_bytes(result.content)

    def label(name: str) -> str:
        layer = re.search(r"\.(\d)\.", name)
        return layer[1] if layer else "rest"

    groups = materialiser.groups
    of = label if shared == "layer" else lambda name: groups.labels[groups.of(name)]
    columns = {name: tuple(fit.coefficients_of(name)) for name in fit.tensors}
    assert len({*columns.values()}) == len({of(name) for name in fit.tensors}) == 3
    assert len({(of(name), column) for name, column in columns.items()}) == 3


@pytest.mark.parametrize("scales", ["channel", "singular", "none"])
def test_a_fit_starts_from_another(worker: Worker, scales: Literal["channel", "singular", "none"]) -> None:
    job = replace(JOB, scales=scales, settings=replace(JOB.settings, steps=2))
    (first,) = learned(worker, job)
    still = replace(job.settings, learning_rate=0.0)
    (second,) = learned(worker, replace(job, start=keep_fit(first.content), settings=still))
    assert second.content == first.content
    other = replace(job, start=keep_fit(first.content), scales="singular" if scales == "channel" else "channel")
    broken = opened_worker(worker._materialiser)
    with pytest.raises(ModelError, match="the fit to start from was learned with different models or settings"):
        learned(broken, other)
    broken.close()


def test_progress_of_others_is_refused() -> None:
    draw = torch.Generator().manual_seed(0)
    parts = [torch.rand(5, generator=draw) for _ in range(3)]
    content = progress_to_bytes(Progress(*parts, [0.1, 1 / 3], 7, 0.25))
    back = progress_from_bytes(content, 5)
    assert all(map(torch.equal, (back.values, back.mean, back.square), parts))
    assert (back.losses, back.tokens, back.seconds) == ([0.1, 1 / 3], 7, 0.25)
    parts[1][0] = torch.nan
    invalid = progress_to_bytes(Progress(*parts, [], 0, 0.0))
    for bad in (b"", b"x" * 100, content[:-4], content.replace(b"format", b"farmat"), invalid):
        with pytest.raises(ValueError, match=r"^not the progress of a fit"):
            progress_from_bytes(bad, 5)
    with pytest.raises(ValueError, match="with 6 values"):
        progress_from_bytes(content, 6)


def test_memory_decides_where_experts_are_and_whether_layers_are_checkpointed(materialiser: Materialiser) -> None:
    def chosen(free: float, host: int = 10**9) -> FitMemory:
        return fit_memory(materialiser, [JOB], torch.float32, int(free), host)

    parts = memory_needs(materialiser, False).parts
    much = chosen(10**9)
    assert (much.place, much.checkpointing) == ("device", False)
    assert much.room > parts
    found = [chosen(size) for size in range(10**5, 2 * 10**7, 10**5)]
    assert [memory.checkpointing for memory in found] == sorted((m.checkpointing for m in found), reverse=True)
    assert {(memory.place, memory.checkpointing) for memory in found} >= {("device", True), ("disk", True)}
    assert all(memory.room == 0 for memory in found if memory == FitMemory("disk", True))
    on_gpu = copy(materialiser)
    on_gpu.device = torch.device("cuda")
    for host, place in ((10**9, "host"), (0, "disk")):
        assert fit_memory(on_gpu, [JOB], torch.bfloat16, 0, host) == FitMemory(place, True)


def test_engines_of_one_gpu_each_plan_with_a_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=3000))
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (600, 800))
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert free_memory(gpu) == (600, 3000)
    assert free_memory(gpu, Sharers(gpu=4, host=6)) == (200, 500)
    assert free_memory(cpu, Sharers(gpu=1, host=6)) == (500, 500)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (100, 800))  # the others' engines are still there
    assert free_memory(gpu, Sharers(gpu=4)) == (100, 3000)


def test_workers_that_learn_together_divide_the_memory_of_their_host(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    available = 2**26
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=available))
    caplog.set_level("DEBUG", "cycleqd_merge.evaluation.fits")
    job = replace(JOB, settings=replace(JOB.settings, steps=1))
    for together in (1, 2, 4):
        worker.fit([replace(job, number=together)], lambda result: worker.forget(result.progress), together)
    planned = [int(room) for room in re.findall(r"fits \[\d\]: FitMemory\(.* room=(\d+),", caplog.text)]
    assert planned[0] - planned[1] == pytest.approx(0.8 * available / 2, abs=2)
    assert planned[1] - planned[2] == pytest.approx(0.8 * available / 4, abs=2)


def test_checkpointed_layers_have_no_dropout(llama: Trio) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama.base, attention_dropout=0.5).eval()
    ids = torch.arange(4, 20)[None]
    with torch.enable_grad():
        before = model(ids).logits
        enable_checkpointing(model)
        after = model(ids).logits
    assert torch.equal(before, after)
    assert [module.training for module in model.model.layers] == [True, True]
    assert not model.model.layers[0].mlp.training


def test_two_processes_learn_what_one_does(
    materialiser: Materialiser, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After one step, Adam's mean is a tenth of the gradient."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    gradients: list[torch.Tensor] = []

    def write(self: KeptProgress, progress: Progress, steps: int) -> None:
        if len(progress.losses) == 1:
            gradients.append(progress.mean.clone())

    monkeypatch.setattr(KeptProgress, "write", write)
    jobs = [replace(JOB, number=n, settings=FitSettings(steps=2, rows=3, start=0.4 + n / 10)) for n in range(2)]
    alone = learned(worker, *jobs)
    both = opened_worker(materialiser, processes=2)
    together = learned(both, *jobs)
    both.close()
    assert len(gradients) == 4
    for one, two in zip(gradients[:2], gradients[2:], strict=True):
        assert (one - two).abs().max() <= 1e-5 * one.abs().max()
        assert not torch.equal(one, two)
    for first, second in zip(alone, together, strict=True):
        assert second.losses == pytest.approx(first.losses, rel=1e-4)
        assert 0 < second.tokens <= first.tokens  # fewer examples side by side need less padding
    assert this_process().num_processes == 1
    assert "RANK" not in os.environ


@pytest.mark.slow
def test_a_process_that_fails_is_reported(materialiser: Materialiser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr(MaterialiserSpec, "to_json", lambda self: {})
    broken = opened_worker(materialiser, processes=2)
    with pytest.raises(InfrastructureError, match=r"^a fit failed in another process: KeyError: 'base'"):
        learned(broken, JOB)
    broken.close()


KILLED = """
import sys, time
from cycleqd_merge.fitting import progress
from cycleqd_merge.fitting.training import Fitting
from cycleqd_merge.merging.materialiser_spec import MaterialiserSpec, open_materialiser
from tests.evaluation.test_fits import JOB, learned, opened_worker
import json
progress.EVERY = 2
step = Fitting._step
Fitting._step = lambda self, at: (step(self, at), time.sleep(0.3))[0]
learned(opened_worker(open_materialiser(MaterialiserSpec.from_json(json.loads(sys.argv[1])))), JOB)
"""


@pytest.mark.slow
def test_a_fit_resumes_after_sigkill(materialiser: Materialiser, worker: Worker) -> None:
    (whole,) = learned(worker, JOB)
    spec = json.dumps(MaterialiserSpec.of(materialiser).to_json())
    killed = subprocess.Popen([sys.executable, "-c", KILLED, spec], cwd=Path(__file__).parents[2])
    folder = cache_folder("fits") / "progress"
    while not list(folder.glob("*.safetensors")):
        assert killed.poll() is None
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    steps: list[int] = []
    with pytest.MonkeyPatch.context() as patched:
        step = Fitting._step
        patched.setattr(Fitting, "_step", lambda self, at: (steps.append(len(at.losses)), step(self, at))[1])
        (resumed,) = learned(worker, JOB)
    assert 0 < len(steps) < 8
    assert resumed.content == whole.content
