"""A pool on Ray: one worker per GPU (or tensor-parallel group), on this host or a cluster.

Each worker opens the models itself, once, and receives candidates as genomes, with the fits that its host lacks. A
worker that dies or hangs is replaced, and its candidate is scored again by another worker. A candidate whose workers
crash or hang twice is recorded as failed; lost hosts, workers killed for memory and engines that cannot be started are
not counted against it.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from statistics import median
from typing import TYPE_CHECKING, Any

from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.errors import InfrastructureError, RecipeError, UserError, first_line
from cycleqd_merge.evaluation.failures import EngineLost
from cycleqd_merge.evaluation.opened_recipe import open_worker
from cycleqd_merge.evaluation.pools.cluster import connect, gpus_per_worker, workers_per_host
from cycleqd_merge.evaluation.pools.pool import Finished, evaluate_proposal, learn
from cycleqd_merge.evolution.candidate import Candidate, fits_of
from cycleqd_merge.fitting.job import FitJob, FitResult
from cycleqd_merge.merging.family import ModelDigests
from cycleqd_merge.merging.fit_files import is_kept
from cycleqd_merge.merging.fits import fit_content, keep_fit
from cycleqd_merge.merging.shared import remove_unused
from cycleqd_merge.strategies.protocol import Proposal
from cycleqd_merge.tasks.protocol import Split

if TYPE_CHECKING:  # an extra
    from ray import ObjectRef

log = logging.getLogger(__name__)

HUNG_FACTOR = 10.0
"""A worker counts as hung after this many times the median duration on such rows, plus `RESTART_SECONDS`."""
RESTART_SECONDS = 600.0
"""Time to restart a dead engine, which is part of the evaluation that finds it dead."""
DEFAULT_LIMIT_SECONDS = 12 * 3600.0
"""Time after which a worker counts as hung if too few evaluations on such rows have finished to know their duration."""
FIRST_EVALUATION_SECONDS = 3600.0
"""Additional time for a worker's first evaluation, in which it reads all models."""
MAX_DEATHS = 5
"""This many deaths per worker, with no evaluation finished in between, stop the run. A host that leaves the cluster
causes several."""
CHECK_SECONDS = 5.0
"""Time between two checks for hung workers."""
CLOSE_SECONDS = 20.0
"""Time for idle workers to free their engines at the end, before they are killed."""
_LOST_HOST = "its node has died"
"""Part of Ray's message if an actor's host has left the cluster: the error says so nowhere else."""

Fits = Mapping[str, "ObjectRef[bytes]"]
"""The fits that a job needs: by digest, references to their contents."""


class RemoteWorker:
    """A `Worker` in its own process."""

    def __init__(self) -> None:
        self._kept = set[str]()  # fits that are in this host's cache

    def open(
        self,
        recipe: dict[str, Any],
        experts: Sequence[int],
        workers_per_host: int,
        digests: ModelDigests | None = None,
    ) -> None:
        """Open everything that the recipe names; see `open_worker`."""
        self._worker = open_worker(Recipe.model_validate(recipe), experts, workers_per_host, digests)

    def close(self) -> None:
        """Free the engine's memory."""
        self._worker.close()

    def evaluate(
        self, proposal: Proposal, rows: Split, known: Mapping[str, float] | None, record: Collection[str], fits: Fits
    ) -> Finished:
        """See `Pool`."""
        self._keep(fits)
        return evaluate_proposal(self._worker, proposal, rows, known, record)

    def fit(self, job: FitJob, together: int, fits: Fits) -> FitResult:
        """See `Pool`. together: see `Worker.fit`."""
        self._keep(fits)
        results = list[FitResult]()
        learn(self._worker, [job], results.append, together)
        return results[0]

    def forget(self, progress: str) -> None:
        """See `Worker`."""
        self._worker.forget(progress)

    def prepare(self, candidate: Candidate, fits: Fits) -> None:
        """See `Engine`. Called while `evaluate` is running."""
        self._keep(fits)
        self._worker.prepare(candidate)

    def _keep(self, fits: Fits) -> None:
        """Store those fits in this host's cache that it lacks."""
        import ray

        for digest in fits.keys() - self._kept:
            if not is_kept(digest):
                keep_fit(ray.get(fits[digest]))
            self._kept.add(digest)


def is_lost(error: Exception) -> bool:
    """Whether a worker died with its host or for lack of memory, by Ray's error: its candidate has not caused it."""
    from ray import exceptions

    lost = (
        exceptions.OutOfMemoryError,
        exceptions.OutOfDiskError,
        exceptions.NodeDiedError,
        exceptions.LocalRayletDiedError,
    )
    actor_lost = isinstance(error, exceptions.RayActorError) and (error.preempted or _LOST_HOST in str(error))
    return isinstance(error, lost) or actor_lost


class Deadlines:
    """How long an evaluation may take, from the durations of others on the same split: splits differ widely in size."""

    def __init__(self) -> None:
        self._seconds: defaultdict[Split, list[float]] = defaultdict(list)

    def learn(self, rows: Split, seconds: float) -> None:
        """Record how long an evaluation took."""
        self._seconds[rows].append(seconds)

    def of(self, rows: Split) -> float:
        """Seconds after which a worker counts as hung."""
        seconds = self._seconds[rows]
        return DEFAULT_LIMIT_SECONDS if len(seconds) < 3 else HUNG_FACTOR * median(seconds) + RESTART_SECONDS


@dataclass
class _Job:
    proposal: Proposal
    rows: Split
    known: Mapping[str, float] | None
    record: Collection[str] = ()
    attempts: int = 0

    def is_complete(self, finished: Finished) -> bool:
        """Whether all its tasks and rows were scored, so that its duration is typical."""
        return not self.known and finished.evaluation is not None and not finished.evaluation.censored


@dataclass
class _Fit:
    job: FitJob
    together: int
    attempts: int = 0


@dataclass
class _BusyWorker:
    """A worker that is evaluating or fitting `job`; if `job` is None, it is still opening its models and tasks."""

    job: _Job | _Fit | None
    worker: Any
    since: float = field(default_factory=time.monotonic)


class RayPool:
    """See `Pool`. `experts` are those whose singular bases the run needs. digests: see `open_worker`.

    It requests `workers` processes; those without a free GPU start once one joins the cluster. A waiting child is
    reserved for a busy worker, which builds its weights while it scores another; an idle worker takes any child.

    `next` and `poll` also raise InfrastructureError if too many workers in a row have died.

    Raises:
        RecipeError: Ray is not installed, the cluster cannot be reached, or none of its hosts has room for a worker.
    """

    def __init__(
        self,
        recipe: Recipe,
        experts: Sequence[int],
        workers: int,
        address: str | None = None,
        attempts: int = 2,
        digests: ModelDigests | None = None,
    ) -> None:
        try:
            import ray
        except ImportError as error:
            raise RecipeError("workers: more than one requires Ray: `pip install 'cycleqd-merge[ray]'`") from error
        self._attempts = attempts
        self._ray: Any = ray
        self._workers = workers
        self._queue: deque[_Job] = deque()
        self._fits: deque[_Fit] = deque()
        self._fitted: deque[tuple[FitResult, Any]] = deque()  # each with the worker that learned it
        self._finished: deque[Finished] = deque()  # while fits were learned
        self._reserved: dict[Any, _Job] = {}
        self._busy: dict[Any, _BusyWorker] = {}
        self._deadlines = Deadlines()
        self._deaths = 0
        self._checked = time.monotonic()
        self._own = not ray.is_initialized()
        if self._own:
            connect(address)
        self._gpus = gpus_per_worker(recipe)
        settings = recipe.model_dump(mode="json", exclude_unset=True)
        self._per_host = workers_per_host(workers, self._gpus)
        self._opening = (settings, list(experts), self._per_host, digests)
        self._idle: list[Any] = []
        self._warm: set[Any] = set()
        self._reference = lru_cache(maxsize=64)(lambda digest: ray.put(fit_content(digest)))
        for _ in range(workers):
            self._start_worker()

    def _start_worker(self) -> None:
        actor = self._ray.remote(num_cpus=1, num_gpus=self._gpus, max_restarts=0, max_concurrency=2)(RemoteWorker)
        worker = actor.remote()
        self._busy[worker.open.remote(*self._opening)] = _BusyWorker(None, worker)

    def submit(
        self,
        proposal: Proposal,
        rows: Split = "search",
        known: Mapping[str, float] | None = None,
        record: Collection[str] = (),
    ) -> None:
        self._queue.append(_Job(proposal, rows, known, record))
        self._dispatch()

    def _dispatch(self) -> None:
        while self._idle and self._fits:
            fit, worker = self._fits.popleft(), self._idle.pop(0)
            fit.attempts += 1
            needed = [fit.job.start] if fit.job.start is not None else []
            self._busy[worker.fit.remote(fit.job, fit.together, self._references(needed))] = _BusyWorker(fit, worker)
        while self._idle and (job := self._due(self._idle[0])) is not None:
            worker = self._idle.pop(0)
            job.attempts += 1
            fits = self._references(fits_of(job.proposal.candidate))
            evaluating = worker.evaluate.remote(job.proposal, job.rows, job.known, job.record, fits)
            self._busy[evaluating] = _BusyWorker(job, worker)
        for busy in self._busy.values():
            if self._queue and isinstance(busy.job, _Job) and busy.worker not in self._reserved:
                job = self._reserved[busy.worker] = self._queue.popleft()
                candidate = job.proposal.candidate
                busy.worker.prepare.remote(candidate, self._references(fits_of(candidate)))

    def _references(self, digests: Sequence[str]) -> Fits:
        """The contents of fits, from this host's cache; each host fetches those that it lacks.

        Raises:
            ModelError: one is missing or damaged.
        """
        return {digest: self._reference(digest) for digest in digests}

    def _due(self, worker: Any) -> _Job | None:
        """The next job of an idle worker: its reserved one, the next in the queue, or one reserved for another."""
        if worker in self._reserved:
            return self._reserved.pop(worker)
        if self._queue:
            return self._queue.popleft()
        if self._reserved:
            return self._reserved.pop(next(iter(self._reserved)))
        return None

    def next(self) -> Finished:
        while True:
            finished = self.poll(CHECK_SECONDS)
            if finished is not None:
                return finished

    def fit(self, jobs: Sequence[FitJob], received: Callable[[FitResult], None]) -> None:
        together = min(len(jobs), self._per_host)
        self._fits.extend(_Fit(job, together) for job in jobs)
        self._dispatch()
        for _ in jobs:
            while not self._fitted:
                finished = self._wait(CHECK_SECONDS)
                if finished is not None:
                    self._finished.append(finished)
            result, worker = self._fitted.popleft()
            received(result)
            worker.forget.remote(result.progress)

    def poll(self, seconds: float) -> Finished | None:
        return self._finished.popleft() if self._finished else self._wait(seconds)

    def _wait(self, seconds: float) -> Finished | None:
        """As `poll`; learned fits go to `_fitted`."""
        done, _ = self._ray.wait(list(self._busy), num_returns=1, timeout=seconds)
        for reference in done:
            finished = self._receive(reference)
            if finished is not None:
                return finished
        if time.monotonic() - self._checked < CHECK_SECONDS:
            return None
        self._checked = time.monotonic()
        return self._replace_hung()

    def _receive(self, reference: Any) -> Finished | None:
        """Take a worker's answer; None if it has only opened its models, or died and its job was queued again."""
        busy = self._busy.pop(reference)
        try:
            answer: Finished | FitResult | None = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, EngineLost):
                return self._replace(busy, str(cause), counts=False)
            if isinstance(cause, UserError | InfrastructureError):
                raise cause from error
            return self._replace(busy, f"{type(cause).__name__}: {cause}")
        except self._ray.exceptions.RayError as error:  # it died, or Ray killed it to free memory
            return self._replace(busy, f"its worker died: {first_line(error)}", counts=not is_lost(error))
        self._idle.append(busy.worker)
        finished = self._taken(busy, answer)
        self._dispatch()
        return finished

    def _taken(self, busy: _BusyWorker, answer: Finished | FitResult | None) -> Finished | None:
        """A finished evaluation; None if the worker has learned a fit, or only opened its models."""
        if busy.job is None or answer is None:
            return None
        self._deaths = 0
        if isinstance(answer, Finished):
            self._warm.add(busy.worker)
            if isinstance(busy.job, _Job) and busy.job.is_complete(answer):
                self._deadlines.learn(busy.job.rows, time.monotonic() - busy.since)
            return answer
        self._fitted.append((answer, busy.worker))
        return None

    def _replace(self, busy: _BusyWorker, reason: str, counts: bool = True) -> Finished | None:
        """Replace a worker, and queue its job again unless that was its last attempt.

        counts: whether this was an attempt; False if the worker would have died with any other job.

        Raises:
            InfrastructureError: too many workers have died with no evaluation finished in between, or a fit has failed
                too often.
        """
        self._deaths += 1
        log.warning("replacing a worker: %s", reason)
        if self._deaths >= MAX_DEATHS * self._workers:
            raise InfrastructureError(f"{self._deaths} workers died in a row; the last one: {reason}")
        self._ray.kill(busy.worker)
        if busy.worker in self._reserved:
            self._queue.appendleft(self._reserved.pop(busy.worker))
        self._start_worker()
        if busy.job is None:
            return None
        if not counts:
            busy.job.attempts -= 1
        elif busy.job.attempts >= self._attempts:
            if isinstance(busy.job, _Fit):
                raise InfrastructureError(f"a fit failed: {reason}")
            return Finished(busy.job.proposal.number, None, reason)
        if isinstance(busy.job, _Fit):
            self._fits.appendleft(busy.job)
        else:
            self._queue.appendleft(busy.job)
        self._dispatch()
        return None

    def _replace_hung(self) -> Finished | None:
        """Replace one worker that has taken far too long, if there is one."""
        for reference, busy in list(self._busy.items()):
            if busy.job is None:
                continue
            limit = 0.0 if busy.worker in self._warm else FIRST_EVALUATION_SECONDS
            limit += self._deadlines.of(busy.job.rows) if isinstance(busy.job, _Job) else DEFAULT_LIMIT_SECONDS
            if time.monotonic() - busy.since > limit:
                del self._busy[reference]
                return self._replace(busy, f"no answer in {limit:.0f} s")
        return None

    def close(self) -> None:
        workers = [*self._idle, *(busy.worker for busy in self._busy.values())]
        if self._idle:
            self._ray.wait(
                [worker.close.remote() for worker in self._idle], num_returns=len(self._idle), timeout=CLOSE_SECONDS
            )
        for worker in workers:
            self._ray.kill(worker)
        remove_unused()
        if self._own:
            self._ray.shutdown()
