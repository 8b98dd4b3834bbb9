"""Workers on Ray: the same run as one worker in this process, whatever happens to them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from ray import exceptions
from ray.core.generated.common_pb2 import ActorDiedErrorContext, NodeDeathInfo

from cycleqd_merge import Observer, load_recipe
from cycleqd_merge.errors import InfrastructureError, UserError
from cycleqd_merge.evaluation.failures import EngineLost
from cycleqd_merge.evaluation.opened_recipe import open_worker
from cycleqd_merge.evaluation.pools.cluster import worker_count, workers_per_host
from cycleqd_merge.evaluation.pools.pool import Finished, LocalPool, Pool
from cycleqd_merge.evaluation.pools.ray_pool import (
    DEFAULT_LIMIT_SECONDS,
    HUNG_FACTOR,
    MAX_DEATHS,
    RESTART_SECONDS,
    Deadlines,
    RayPool,
    is_lost,
)
from cycleqd_merge.evolution.genome import fit_genome
from cycleqd_merge.fitting.job import FitJob, FitResult
from cycleqd_merge.fitting.training import FitSettings, FitTask
from cycleqd_merge.journal.log import Event, of_kind, read_events
from cycleqd_merge.merging.fits import keep_fit
from cycleqd_merge.run.state import Run
from cycleqd_merge.session.search import search
from cycleqd_merge.strategies.protocol import Proposal
from tests.evaluation.conftest import BASE
from tests.fits import random_fit
from tests.fitting.test_training import examples
from tests.merging.conftest import Trio, llama

__all__ = ["llama"]

RECIPES = Path(__file__).parents[2] / "recipes"


def results(folder: Path) -> list[Event]:
    """The results in a journal, without durations."""
    return [{**event, "seconds": None} for event in of_kind(read_events(folder), "result")]


def workers() -> list[psutil.Process]:
    """The processes of Ray's workers that belong to this one."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::RemoteWorker"):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


class Killer(Observer):
    """Kills one worker after the result with a given number."""

    def __init__(self, after: int) -> None:
        self.after, self.killed = after, 0

    def evaluated(self, run: Run, event: Event) -> None:
        """See `Observer`."""
        if event["number"] == self.after:
            os.kill(workers()[0].pid, signal.SIGKILL)
            self.killed += 1


def evolve(folder: Path, observer: Any = None, **settings: Any) -> list[Event]:
    """A short run of the quickstart, two in flight."""
    shorter = {"evolution.generations": 7, "evolution.preset": "paper", "evolution.in_flight": 2, "confirm.share": 0}
    fixed = {**shorter, "finish": "{}", "output": folder}
    overrides = [f"{key}={value}" for key, value in {**fixed, **settings}.items()]
    search(load_recipe(RECIPES / "quickstart.yaml", overrides), observer or Observer())
    return results(folder)


@pytest.fixture(autouse=True)
def _workers_find_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


def test_two_workers_one_of_which_is_killed_give_the_same_run_as_one(tmp_path: Path) -> None:
    alone = evolve(tmp_path / "alone")
    killer = Killer(after=4)
    together = evolve(tmp_path / "together", killer, workers=2)
    assert killer.killed == 1
    assert together == alone
    assert len(alone) == 3 + 7


def test_an_error_while_a_worker_opens_its_models_is_raised_unchanged(tmp_path: Path) -> None:
    recipe = load_recipe(RECIPES / "quickstart.yaml", [f"base={tmp_path}/nothing"])
    pool = RayPool(recipe, (), workers=1)
    try:
        with pytest.raises(UserError, match="nothing: no such folder"):
            pool.next()
    finally:
        pool.close()


def died(reason: Any = 0, message: str = "The worker process exited") -> exceptions.ActorDiedError:
    """Ray's error for an actor that has died."""
    context = ActorDiedErrorContext(actor_id=b"1" * 16, error_message=message)
    if reason:
        context.node_death_info.reason = reason
    return exceptions.ActorDiedError(context)


CRASHED = died()
KILLED_FOR_MEMORY = exceptions.OutOfMemoryError("Task was killed due to the node running low on memory.")
LOST_HOST = died(NodeDeathInfo.UNEXPECTED_TERMINATION, "The actor died because its node has died. Node Id: 1f")
PREEMPTED = died(NodeDeathInfo.AUTOSCALER_DRAIN_PREEMPTED)
ENGINE_LOST = exceptions.RayTaskError("evaluate", "", EngineLost("engine vllm: cannot be started: no memory"))
SCORED = Finished(7, None, "stands for an evaluation")


def test_rays_errors_tell_whether_a_worker_was_lost() -> None:
    lost = (KILLED_FOR_MEMORY, LOST_HOST, PREEMPTED, exceptions.NodeDiedError("gone"))
    assert all(map(is_lost, lost))
    assert not is_lost(CRASHED)
    assert not is_lost(exceptions.WorkerCrashedError())


@dataclass(frozen=True, eq=False)
class Call:
    """Stands for Ray's reference to the result of a call."""

    name: str
    arguments: tuple[Any, ...]


Answer = Finished | FitResult | Exception | Callable[..., FitResult]


class StubWorker:
    """Stands for an actor's handle: its calls return references."""

    def __init__(self) -> None:
        self.open, self.evaluate, self.fit, self.forget, self.prepare = (
            SimpleNamespace(remote=partial(self._call, name))
            for name in ("open", "evaluate", "fit", "forget", "prepare")
        )

    def _call(self, name: str, *arguments: Any) -> Call:
        return Call(name, arguments)


class StubWorkers:
    """Stands for Ray: its workers open at once; their answers to other calls, in order, are results or errors, or
    functions of the call's arguments."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)

    def remote(self, **_: Any) -> Callable[..., Any]:
        """As `ray.remote`."""
        return lambda _: SimpleNamespace(remote=StubWorker)

    def get(self, reference: Call) -> Finished | FitResult | None:
        """As `ray.get`."""
        if reference.name == "open":
            return None
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer(*reference.arguments) if callable(answer) else answer


@pytest.fixture
def pool_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., RayPool]:
    """A pool whose workers, one by default, answer in this way."""

    def opened(*answers: Answer, workers: int = 1) -> RayPool:
        stub = StubWorkers(*answers)
        for name, stands_in in {
            "is_initialized": lambda: True,
            "remote": stub.remote,
            "wait": lambda references, **_: (references[:1], references[1:]),
            "get": stub.get,
            "kill": lambda _: None,
        }.items():
            monkeypatch.setattr(f"ray.{name}", stands_in)
        monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
        return RayPool(load_recipe(RECIPES / "quickstart.yaml", []), (), workers)

    return opened


@pytest.fixture
def score(pool_of: Callable[..., RayPool]) -> Callable[..., Finished]:
    """A pool's answer to one proposal if its only worker answers in this way."""

    def answer(*answers: Finished | Exception) -> Finished:
        pool = pool_of(*answers)
        pool.submit(Proposal(7, BASE, {}))
        return pool.next()

    return answer


def test_a_child_whose_workers_crash_twice_is_recorded(score: Callable[..., Finished]) -> None:
    assert score(CRASHED, SCORED) == SCORED
    finished = score(CRASHED, CRASHED)
    assert (finished.number, finished.evaluation) == (7, None)
    assert str(finished.error).startswith("its worker died: ")


@pytest.mark.parametrize("error", [KILLED_FOR_MEMORY, LOST_HOST, PREEMPTED, ENGINE_LOST])
def test_a_lost_worker_or_engine_is_not_counted_against_its_child(
    score: Callable[..., Finished], error: Exception
) -> None:
    assert score(error, error, CRASHED, error, SCORED) == SCORED
    assert score(error, CRASHED, error, CRASHED).number == 7


@pytest.mark.parametrize("error", [KILLED_FOR_MEMORY, LOST_HOST, PREEMPTED, ENGINE_LOST])
def test_workers_that_are_lost_again_and_again_end_the_run_without_a_result(
    score: Callable[..., Finished], error: Exception
) -> None:
    with pytest.raises(InfrastructureError, match=f"{MAX_DEATHS} workers died in a row; the last one: "):
        score(*[error] * MAX_DEATHS)


def test_durations_on_the_same_rows_decide_when_an_evaluation_counts_as_hung() -> None:
    deadlines = Deadlines()
    for seconds in (3.0, 1.0, 2.0):
        deadlines.learn("search", seconds)
    deadlines.learn("heldout", 2000.0)
    assert deadlines.of("search") == HUNG_FACTOR * 2 + RESTART_SECONDS
    assert deadlines.of("heldout") == deadlines.of("confirm") == DEFAULT_LIMIT_SECONDS > 2000


@pytest.mark.parametrize(
    ("gpus", "engine", "workers"),
    [
        (2, "{kind: vllm}", 2),
        (2, "{kind: vllm, per_gpu: 6}", 12),
        (3, "{kind: vllm, per_gpu: 7}", 21),
        (8, "{kind: vllm, options: {tensor_parallel_size: 4}}", 2),
        (2, "{kind: transformers}", 2),
        (0, "{kind: vllm, per_gpu: 6}", 1),
    ],
)
def test_auto_means_as_many_workers_as_fit_on_the_gpus(
    gpus: int, engine: str, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    recipe = load_recipe(RECIPES / "quickstart.yaml", ["workers=auto", f"engine={engine}"])
    assert worker_count(recipe) == workers


def test_at_most_the_largest_host_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = [(8.0, True), (4.0, True), (16.0, False)]
    monkeypatch.setattr("ray.nodes", lambda: [{"Resources": {"GPU": gpus}, "Alive": alive} for gpus, alive in hosts])
    assert workers_per_host(32, 1) == 8
    assert workers_per_host(32, 4) == 2
    assert workers_per_host(3, 1) == 3
    assert workers_per_host(100, 0.1666) == 48
    assert workers_per_host(5, 0) == 5  # without GPUs, all may run on one host
    with pytest.raises(UserError, match="a worker needs 16 GPUs on one host, but no host has more than 8"):
        workers_per_host(2, 16)


JOBS = [FitJob(number, (), FitSettings()) for number in range(2)]
LEARNED = [FitResult(number, b"", (), 0, {}) for number in range(2)]


def test_fits_are_learned_by_workers_one_job_each(pool_of: Callable[..., RayPool]) -> None:
    pool = pool_of(CRASHED, LEARNED[0], LEARNED[1], SCORED)
    results: list[FitResult] = []
    pool.fit(JOBS, results.append)
    assert results == LEARNED
    pool.submit(Proposal(7, BASE, {}))
    assert pool.next() == SCORED


@pytest.mark.parametrize(("workers", "at_once"), [(1, 1), (2, 2), (4, 2)])
def test_workers_know_how_many_fits_share_their_host(
    pool_of: Callable[..., RayPool], workers: int, at_once: int
) -> None:
    told: list[int] = []

    def learn(job: FitJob, together: int, fits: Any) -> FitResult:
        told.append(together)
        return LEARNED[job.number]

    pool_of(learn, learn, workers=workers).fit(JOBS, lambda result: None)
    assert told == [at_once, at_once]


def test_evaluations_that_end_while_fits_are_learned_are_kept(pool_of: Callable[..., RayPool]) -> None:
    pool = pool_of(SCORED, *LEARNED)
    pool.submit(Proposal(7, BASE, {}))
    assert pool.poll(0) is None  # the worker has opened its models and is scoring
    pool.fit(JOBS, lambda result: None)
    assert pool.next() == SCORED


def test_a_fit_whose_workers_crash_twice_ends_the_run(pool_of: Callable[..., RayPool]) -> None:
    with pytest.raises(InfrastructureError, match="a fit failed: its worker died: "):
        pool_of(CRASHED, CRASHED).fit(JOBS, lambda result: None)


def test_errors_of_users_are_raised_as_they_are(pool_of: Callable[..., RayPool]) -> None:
    refused = exceptions.RayTaskError("fit", "", UserError("fit: cannot be loaded"))
    with pytest.raises(UserError, match=r"^fit: cannot be loaded$"):
        pool_of(refused).fit(JOBS, lambda result: None)


@dataclass(frozen=True)
class OtherHost:
    """A pool whose only worker has a cache of its own, as on another host."""

    pool: Pool
    cache: Path


@pytest.fixture(scope="module")
def other_host(llama: Trio, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OtherHost]:
    folder = tmp_path_factory.mktemp("other-host")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("CYCLEQD_CACHE", str(folder))  # Ray's processes inherit it
        patched.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        pool = RayPool(llama.recipe, (), workers=1)
    with closing(pool):
        yield OtherHost(pool, folder)


def test_fits_reach_the_caches_of_other_hosts(other_host: OtherHost, llama: Trio) -> None:
    scored, prepared, started, unused = (
        keep_fit(random_fit(llama.family, "channel", scaled, seed).to_bytes())
        for seed, scaled in enumerate([(0, 1), (0, 1), (), ()])
    )
    tasks = [task.name for task in llama.recipe.tasks]
    learned_from = (FitTask("digits", 1, examples(0)),)
    job = FitJob(0, learned_from, FitSettings(steps=2, rows=2), scales="none", start=started)

    def answers(pool: Pool) -> Any:
        for number, digest in enumerate((scored, prepared)):
            pool.submit(Proposal(number, fit_genome(digest, 3, 1), {}), record=tasks)
        evaluations = [pool.next().evaluation for _ in range(2)]
        assert all(evaluations)
        learned: list[FitResult] = []
        pool.fit([job], learned.append)
        return [each and each.examples for each in evaluations], learned[0].content

    with closing(LocalPool(open_worker(llama.recipe, ()))) as here:
        assert answers(other_host.pool) == answers(here)
    kept = {path.stem for path in (other_host.cache / "fits").glob("*.safetensors")}
    assert kept >= {scored, prepared, started}
    assert unused not in kept


def test_the_progress_of_a_fit_is_kept_until_its_result_is_recorded(other_host: OtherHost) -> None:
    """It is on the worker's host, where a run that is killed before finds it when it resumes."""
    folder = other_host.cache / "fits" / "progress"
    job = FitJob(0, (FitTask("digits", 1, examples(1)),), FitSettings(steps=2, rows=2), scales="none")
    while_recorded: list[list[Path]] = []
    other_host.pool.fit([job], lambda result: while_recorded.append([*folder.glob("*.safetensors")]))
    assert [len(files) for files in while_recorded] == [1]
    deadline = time.monotonic() + 30
    while any(folder.glob("*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(folder.glob("*.safetensors"))
