"""Where candidates are evaluated: submitted in order, answered as they end."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from cycleqd_merge.errors import InfrastructureError, UserError
from cycleqd_merge.evaluation.worker import Evaluation, Worker, single_cause
from cycleqd_merge.evolution.candidate import MergekitConfiguration
from cycleqd_merge.strategies.protocol import Proposal
from cycleqd_merge.tasks.protocol import Split


@dataclass(frozen=True)
class Finished:
    """One submitted proposal's end: an evaluation, or the error that was its last."""

    number: int
    evaluation: Evaluation | None
    error: str | None = None


class Pool(Protocol):
    """Evaluates proposals on one or many workers."""

    def submit(self, proposal: Proposal, rows: Split = "search", known: Mapping[str, float] | None = None) -> None:
        """Hand in a proposal to score on `rows`; returns at once. known: scores by task that need no measuring."""
        ...

    def next(self) -> Finished:
        """Wait for any submitted proposal to end.

        Raises:
            InfrastructureError: the surroundings of an evaluation failed; its proposal counts as not evaluated.
        """
        ...

    def poll(self, seconds: float) -> Finished | None:
        """The same, but None if nothing ends for about so many seconds; one that works in this process takes longer."""
        ...

    def close(self) -> None:
        """Stop the workers."""
        ...


class LocalPool:
    """A pool of one worker in this process."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._queue: deque[tuple[Proposal, Split, Mapping[str, float] | None]] = deque()

    def submit(self, proposal: Proposal, rows: Split = "search", known: Mapping[str, float] | None = None) -> None:
        self._queue.append((proposal, rows, known))

    def next(self) -> Finished:
        job = self._queue.popleft()
        if self._queue:
            self._worker.prepare(self._queue[0][0].candidate)
        return outcome_of(self._worker, *job)

    def poll(self, seconds: float) -> Finished | None:
        return self.next() if self._queue else None

    def close(self) -> None:
        self._worker.close()


def outcome_of(
    worker: Worker, proposal: Proposal, rows: Split, known: Mapping[str, float] | None, attempts: int = 2
) -> Finished:
    """Let a worker score a proposal, at most `attempts` times.

    Raises:
        InfrastructureError: the surroundings failed.
        UserError: what the user wrote cannot be evaluated at all; a mergekit configuration fails alone.
    """
    error = ""
    for _ in range(attempts):
        try:
            evaluation = worker.evaluate(proposal.candidate, rows, known=known, race=proposal.race)
            return Finished(proposal.number, evaluation)
        except Exception as raised:
            cause = single_cause(raised)
            own_fault = isinstance(proposal.candidate, MergekitConfiguration)  # one that mergekit cannot build
            if isinstance(cause, InfrastructureError) or (isinstance(cause, UserError) and not own_fault):
                raise cause from raised
            if isinstance(cause, OSError):
                raise InfrastructureError(f"an evaluation failed: {cause}") from raised
            error = f"{type(cause).__name__}: {cause}"
    return Finished(proposal.number, None, error)
