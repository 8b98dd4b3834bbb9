"""A worker learns fits in the memory of its engine, which answers afterwards as before."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from cycleqd_merge.config.engines import TransformersEngineConfig
from cycleqd_merge.config.evolution import LayerGroupsConfig
from cycleqd_merge.evaluation.engines.transformers_engine import TransformersEngine
from cycleqd_merge.evaluation.pools.pool import LocalPool
from cycleqd_merge.evaluation.worker import Worker
from cycleqd_merge.evolution.genome import expert_genome, fit_genome
from cycleqd_merge.fitting.job import FitJob, FitResult
from cycleqd_merge.fitting.training import FitSettings, FitTask
from cycleqd_merge.merging.fits import keep_fit
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.tasks.protocol import Sampling
from tests.fitting.test_training import examples
from tests.merging.conftest import Trio, llama

__all__ = ["llama"]

TASKS = tuple(FitTask(f"task {number}", number, examples(number)) for number in range(3))
JOB = FitJob(0, TASKS, FitSettings(steps=8, rows=3))
PROMPTS = ["abc", "hello there", "0123456789"]


@pytest.fixture(scope="module")
def materialiser(llama: Trio) -> Materialiser:
    return llama.materialiser(LayerGroupsConfig(blocks=2))


@pytest.fixture(scope="module")
def worker(materialiser: Materialiser) -> Iterator[Worker]:
    engine = TransformersEngine(TransformersEngineConfig(device="cpu"), materialiser)
    found = Worker(engine, [], materialiser)  # type: ignore[arg-type]
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
