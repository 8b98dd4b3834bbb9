"""A pool on Ray: one worker per GPU (or tensor-parallel group), on this host or a cluster.

A worker opens the models itself, once; candidates travel to it as genomes. A worker that dies or hangs is replaced and
its candidate scored again elsewhere.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.errors import InfrastructureError, RunFailed, UserError
from cycleqd_merge.evaluation.opened_recipe import open_worker
from cycleqd_merge.evaluation.pools.cluster import connect, gpus_per_worker, neighbours
from cycleqd_merge.evaluation.pools.pool import Finished, outcome_of
from cycleqd_merge.evolution.candidate import Candidate
from cycleqd_merge.merging.shared import remove_unused
from cycleqd_merge.strategies.protocol import Proposal
from cycleqd_merge.tasks.protocol import Split

log = logging.getLogger(__name__)

PATIENCE = 10.0
"""A worker that takes so many times the median evaluation on such rows, and `RESTART` more, is taken for hung."""
RESTART = 600.0
"""Seconds in which a worker may start its engine anew, which belongs to the evaluation that found it dead."""
UNKNOWN = 12 * 3600.0
"""Seconds until it is, where too few evaluations on such rows have ended to know what is usual."""
FIRST = 3600.0
"""Seconds more for a worker's first evaluation, in which it reads all models."""
DEATHS = 5
"""So many deaths per worker in a row, with no evaluation between, stop the run: a host that leaves takes several."""


LOOK = 5.0
"""Seconds between two looks for workers that hang."""
CLOSING = 20.0
"""Seconds that idle workers have to free their engines at the end, before they are killed."""


class RemoteWorker:
    """Runs in a process of its own: a `Worker` that outlives failures of its candidates."""

    def open(self, recipe: dict[str, Any], experts: Sequence[int], neighbours: int) -> None:
        """Open everything that the recipe names; see `open_worker`."""
        self._worker = open_worker(Recipe.model_validate(recipe), experts, neighbours)

    def close(self) -> None:
        """Free the engine."""
        self._worker.close()

    def evaluate(self, proposal: Proposal, rows: Split, known: Mapping[str, float] | None) -> Finished:
        """See `Pool`."""
        return outcome_of(self._worker, proposal, rows, known)

    def prepare(self, candidate: Candidate) -> None:
        """See `Engine`. Called while `evaluate` is at work."""
        self._worker.prepare(candidate)


class Deadlines:
    """How long an evaluation may take, by what others on the same kind of rows took: their counts differ widely."""

    def __init__(self) -> None:
        self._seconds: defaultdict[Split, list[float]] = defaultdict(list)

    def learn(self, rows: Split, seconds: float) -> None:
        """Take how long an evaluation took."""
        self._seconds[rows].append(seconds)

    def of(self, rows: Split) -> float:
        """Seconds after which a worker is taken for hung."""
        seconds = self._seconds[rows]
        return UNKNOWN if len(seconds) < 3 else PATIENCE * median(seconds) + RESTART


@dataclass
class _Job:
    proposal: Proposal
    rows: Split
    known: Mapping[str, float] | None
    attempts: int = 0

    def is_measured_by(self, finished: Finished) -> bool:
        """Whether the time that it took is that of a whole evaluation."""
        return not self.known and finished.evaluation is not None and not finished.evaluation.censored


@dataclass
class _Flight:
    """A job on its way at a worker; without one, the worker is still opening what it needs."""

    job: _Job | None
    worker: Any
    since: float = field(default_factory=time.monotonic)


class RayPool:
    """See `Pool`. `experts` are those whose singular bases the run needs.

    `workers` processes are asked for; those that find no GPU free start when one joins the cluster. A child that waits
    is reserved for a worker at work, which prepares its weights meanwhile; a worker that would idle takes any.

    Raises:
        UserError: Ray is not installed, the cluster cannot be reached, or no host of it has room for a worker.
    """

    def __init__(
        self,
        recipe: Recipe,
        experts: Sequence[int],
        workers: int,
        address: str | None = None,
        attempts: int = 2,
    ) -> None:
        try:
            import ray
        except ImportError as error:
            raise UserError("workers: more than one needs Ray: `pip install 'cycleqd-merge[ray]'`") from error
        self._attempts = attempts
        self._ray: Any = ray
        self._workers = workers
        self._queue: deque[_Job] = deque()
        self._reserved: dict[Any, _Job] = {}
        self._flights: dict[Any, _Flight] = {}
        self._deadlines = Deadlines()
        self._deaths = 0
        self._looked = time.monotonic()
        self._own = not ray.is_initialized()
        if self._own:
            connect(address)
        self._gpus = gpus_per_worker(recipe)
        settings = recipe.model_dump(mode="json", exclude_unset=True)
        self._spec = (settings, list(experts), neighbours(workers, self._gpus))
        self._idle: list[Any] = []
        self._warm: set[Any] = set()
        for _ in range(workers):
            self._hire()

    def _hire(self) -> None:
        """Start one more worker."""
        actor = self._ray.remote(num_cpus=1, num_gpus=self._gpus, max_restarts=0, max_concurrency=2)(RemoteWorker)
        worker = actor.remote()
        self._flights[worker.open.remote(*self._spec)] = _Flight(None, worker)

    def submit(self, proposal: Proposal, rows: Split = "search", known: Mapping[str, float] | None = None) -> None:
        self._queue.append(_Job(proposal, rows, known))
        self._dispatch()

    def _dispatch(self) -> None:
        while self._idle and (job := self._due(self._idle[0])) is not None:
            worker = self._idle.pop(0)
            job.attempts += 1
            self._flights[worker.evaluate.remote(job.proposal, job.rows, job.known)] = _Flight(job, worker)
        for flight in self._flights.values():
            if self._queue and flight.job is not None and flight.worker not in self._reserved:
                job = self._reserved[flight.worker] = self._queue.popleft()
                flight.worker.prepare.remote(job.proposal.candidate)

    def _due(self, worker: Any) -> _Job | None:
        """What an idle worker does next: the child that it prepared, the next in line, or one reserved for another."""
        if worker in self._reserved:
            return self._reserved.pop(worker)
        if self._queue:
            return self._queue.popleft()
        if self._reserved:
            return self._reserved.pop(next(iter(self._reserved)))
        return None

    def next(self) -> Finished:
        while True:
            finished = self.poll(LOOK)
            if finished is not None:
                return finished

    def poll(self, seconds: float) -> Finished | None:
        done, _ = self._ray.wait(list(self._flights), num_returns=1, timeout=seconds)
        for reference in done:
            finished = self._land(reference)
            if finished is not None:
                return finished
        if time.monotonic() - self._looked < LOOK:
            return None
        self._looked = time.monotonic()
        return self._replace_hung()

    def _land(self, reference: Any) -> Finished | None:
        """Take what a worker sent; None if it has only opened, or died and its job was queued again."""
        flight = self._flights.pop(reference)
        try:
            finished: Finished | None = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, UserError | InfrastructureError):
                raise cause from error
            return self._lost(flight, f"{type(cause).__name__}: {cause}")
        except self._ray.exceptions.RayError as error:  # it died, or Ray killed it for the memory that it took
            return self._lost(flight, f"its worker died: {str(error).splitlines()[0]}")
        if flight.job is not None:
            self._deaths = 0
            self._warm.add(flight.worker)
            if finished is not None and flight.job.is_measured_by(finished):
                self._deadlines.learn(flight.job.rows, time.monotonic() - flight.since)
        self._idle.append(flight.worker)
        self._dispatch()
        return finished

    def _lost(self, flight: _Flight, reason: str) -> Finished | None:
        """Replace a worker, and send its job elsewhere unless that was its last attempt."""
        self._deaths += 1
        log.warning("a worker is replaced: %s", reason)
        if self._deaths >= DEATHS * self._workers:
            raise RunFailed(f"{self._deaths} workers died in a row, the last so: {reason}")
        self._ray.kill(flight.worker)
        if flight.worker in self._reserved:
            self._queue.appendleft(self._reserved.pop(flight.worker))
        self._hire()
        if flight.job is None:
            return None
        if flight.job.attempts >= self._attempts:
            return Finished(flight.job.proposal.number, None, reason)
        self._queue.appendleft(flight.job)
        self._dispatch()
        return None

    def _replace_hung(self) -> Finished | None:
        """Replace one worker that takes far longer than is usual, if there is one."""
        for reference, flight in list(self._flights.items()):
            if flight.job is None:
                continue
            limit = self._deadlines.of(flight.job.rows) + (0 if flight.worker in self._warm else FIRST)
            if time.monotonic() - flight.since > limit:
                del self._flights[reference]
                return self._lost(flight, f"no answer in {limit:.0f} s")
        return None

    def close(self) -> None:
        workers = [*self._idle, *(flight.worker for flight in self._flights.values())]
        if self._idle:
            self._ray.wait(
                [worker.close.remote() for worker in self._idle], num_returns=len(self._idle), timeout=CLOSING
            )
        for worker in workers:
            self._ray.kill(worker)
        remove_unused()
        if self._own:
            self._ray.shutdown()
