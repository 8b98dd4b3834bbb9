"""Pools evaluate proposals: submitted in order, returned as they finish."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from cycleqd_merge.errors import CycleQDError, InfrastructureError, UserError, first_line
from cycleqd_merge.evaluation.failures import is_infrastructure, single_cause
from cycleqd_merge.evaluation.worker import Evaluation, Worker
from cycleqd_merge.evolution.candidate import MergekitConfiguration
from cycleqd_merge.strategies.protocol import Proposal
from cycleqd_merge.tasks.protocol import Split

if TYPE_CHECKING:  # fits import torch
    from cycleqd_merge.fitting.job import FitJob, FitResult


@dataclass(frozen=True)
class Finished:
    """A proposal that has finished, with its evaluation or the error of its last attempt."""

    number: int
    evaluation: Evaluation | None
    error: str | None = None


class Pool(Protocol):
    """Evaluates proposals on one or many workers."""

    def submit(
        self,
        proposal: Proposal,
        rows: Split = "search",
        known: Mapping[str, float] | None = None,
        record: Collection[str] = (),
    ) -> None:
        """Submit a proposal to be scored on `rows`; returns at once.

        known: scores by task that are not measured. record: tasks whose examples are wanted, see `Worker.evaluate`.
        """
        ...

    def next(self) -> Finished:
        """Wait for any submitted proposal to finish.

        Raises:
            InfrastructureError: an evaluation failed for a reason unrelated to its candidate; the proposal counts as
                not evaluated.
        """
        ...

    def poll(self, seconds: float) -> Finished | None:
        """As `next`, but None if nothing finishes within about this time; a pool in this process may take longer."""
        ...

    def fit(self, jobs: Sequence[FitJob], received: Callable[[FitResult], None]) -> None:
        """Learn fits; `received` records each result, in this thread, in any order. Returns after the last one.

        A fit that was interrupted on a host, or whose result was not recorded, resumes there.

        Raises:
            UserError: the models cannot be fitted.
            InfrastructureError: a fit failed for any other reason.
            CycleQDError: an error of `received`. After any error, the pool can only be closed.
        """
        ...

    def close(self) -> None:
        """Stop the workers."""
        ...


class LocalPool:
    """A pool of one worker in this process."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._queue: deque[tuple[Proposal, Split, Mapping[str, float] | None, Collection[str]]] = deque()

    def submit(
        self,
        proposal: Proposal,
        rows: Split = "search",
        known: Mapping[str, float] | None = None,
        record: Collection[str] = (),
    ) -> None:
        self._queue.append((proposal, rows, known, record))

    def next(self) -> Finished:
        job = self._queue.popleft()
        if self._queue:
            self._worker.prepare(self._queue[0][0].candidate)
        return evaluate_proposal(self._worker, *job)

    def poll(self, seconds: float) -> Finished | None:
        return self.next() if self._queue else None

    def fit(self, jobs: Sequence[FitJob], received: Callable[[FitResult], None]) -> None:
        def record(result: FitResult) -> None:
            received(result)
            self._worker.forget(result.progress)

        learn(self._worker, jobs, record)

    def close(self) -> None:
        self._worker.close()


def learn(worker: Worker, jobs: Sequence[FitJob], received: Callable[[FitResult], None], together: int = 1) -> None:
    """Let a worker learn fits. together: see `Worker.fit`.

    Raises:
        CycleQDError: see `Pool.fit`.
    """
    try:
        worker.fit(jobs, received, together)
    except CycleQDError:
        raise
    except Exception as raised:
        remedy = "; set fit.width to fewer tokens" if "memory" in f"{type(raised).__name__} {raised}".lower() else ""
        raise InfrastructureError(f"a fit failed: {type(raised).__name__}: {first_line(raised)}{remedy}") from raised


def evaluate_proposal(
    worker: Worker,
    proposal: Proposal,
    rows: Split,
    known: Mapping[str, float] | None,
    record: Collection[str] = (),
    attempts: int = 2,
) -> Finished:
    """Let a worker score a proposal, with at most `attempts` attempts.

    A failed sandbox, database or disk ends it at once. Memory that runs out may be free again at the next attempt.

    Raises:
        InfrastructureError: the evaluation failed for a reason unrelated to the candidate.
        UserError: the recipe cannot be evaluated at all. A mergekit configuration that cannot be built is only a
            failed proposal.
    """
    error, infrastructure = "", False
    for _ in range(attempts):
        try:
            evaluation = worker.evaluate(proposal.candidate, rows, known=known, race=proposal.race, record=record)
            return Finished(proposal.number, evaluation)
        except Exception as raised:
            error, infrastructure = _failure(raised, isinstance(proposal.candidate, MergekitConfiguration))
    if infrastructure:
        raise InfrastructureError(f"an evaluation failed: {error}")
    return Finished(proposal.number, None, error)


def _failure(raised: Exception, configuration: bool) -> tuple[str, bool]:
    """An error of an attempt as text, and whether the infrastructure caused it, if another attempt may succeed.

    The error itself must not outlive the attempt: its frames hold tensors, and the next one needs the memory.
    configuration: whether the candidate is a mergekit configuration, which may itself be invalid.

    Raises:
        InfrastructureError: a sandbox, database or disk failed.
        UserError: the recipe cannot be evaluated at all.
    """
    cause = single_cause(raised)
    if isinstance(cause, OSError):
        raise InfrastructureError(f"an evaluation failed: {cause}") from raised
    if isinstance(cause, InfrastructureError) or (isinstance(cause, UserError) and not configuration):
        raise cause from raised
    return f"{type(cause).__name__}: {cause}", is_infrastructure(cause)
