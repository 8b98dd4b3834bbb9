"""A worker: one engine, all tasks. It turns a candidate into scores."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from cycleqd_merge.evaluation.engines.engine import Engine
from cycleqd_merge.event_loop import EventLoop
from cycleqd_merge.evolution.candidate import Candidate
from cycleqd_merge.journal.outcomes import MOST_ROWS, RowOutcomes, outcomes_to_text
from cycleqd_merge.strategies.racing import Partial, Race
from cycleqd_merge.tasks.limits import score_within_limits
from cycleqd_merge.tasks.protocol import Outcome, Sample, Split
from cycleqd_merge.tasks.token_counter import TokenCounter

if TYPE_CHECKING:
    from cycleqd_merge.tasks.suite import Suite, SuiteTask


@dataclass(frozen=True)
class TaskResult:
    """A model's result on one task: an outcome per sample, in the order of the samples.

    leaked: how many held-out samples equal search samples, if that was counted. unscored: the places among all rows of
    those that were not scored, because the model lost its race.
    """

    samples: tuple[str, ...]
    outcomes: tuple[Outcome, ...]
    leaked: int = 0
    unscored: tuple[int, ...] = ()

    @property
    def score(self) -> float:
        """The mean of the samples' scores."""
        return sum(outcome.score for outcome in self.outcomes) / len(self.outcomes)

    @property
    def truncated(self) -> float:
        """The share of answers that the token limit cut off."""
        return sum(outcome.truncated for outcome in self.outcomes) / len(self.outcomes)

    @property
    def limited(self) -> int:
        """The number of samples whose grading exceeded a limit."""
        return sum(bool(outcome.limits) for outcome in self.outcomes)

    @property
    def by_row(self) -> RowOutcomes:
        """The outcomes as arrays, one value for each row."""
        scored = np.ones(len(self.outcomes) + len(self.unscored), bool)
        scored[list(self.unscored)] = False
        scores, tokens, truncated = np.full(len(scored), np.nan), np.zeros(len(scored), np.int64), ~scored & scored
        scores[scored] = [outcome.score for outcome in self.outcomes]
        tokens[scored] = [outcome.tokens for outcome in self.outcomes]
        truncated[scored] = [outcome.truncated for outcome in self.outcomes]
        return RowOutcomes(scores, tokens, truncated)


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of a candidate.

    results: by name, of the tasks that were measured. scores: of all tasks, in their order. load_seconds,
    score_seconds: time to load the weights and to score them. scored: number of rows scored, out of `rows`.

    If the candidate lost its race, only the first rows were scored, and results and scores are those of these rows.
    """

    results: Mapping[str, TaskResult]
    scores: tuple[float, ...]
    load_seconds: float
    score_seconds: float
    scored: int = 0
    rows: int = 0

    @property
    def limited(self) -> dict[str, int]:
        """By task, the number of samples whose grading exceeded a limit, if there are any."""
        return {name: result.limited for name, result in self.results.items() if result.limited}

    @property
    def outcome_texts(self) -> dict[str, str]:
        """By task that was measured, the outcomes of its rows as the journal records them."""
        recorded = {name: result.by_row for name, result in self.results.items()}
        return {name: outcomes_to_text(rows) for name, rows in recorded.items() if len(rows.scores) <= MOST_ROWS}

    @property
    def censored(self) -> bool:
        """Whether the candidate lost its race."""
        return self.scored < self.rows


Job = tuple["SuiteTask", Sequence[Sample]]
"""A task, and its samples to score."""


class Worker:
    """Evaluates one candidate after another on one engine."""

    def __init__(self, engine: Engine, suite: Suite) -> None:
        self._engine, self._suite = engine, suite
        self._event_loop = EventLoop()

    def evaluate(
        self,
        candidate: Candidate | None,
        rows: Split = "search",
        limit: int | None = None,
        known: Mapping[str, float] | None = None,
        race: Race | None = None,
    ) -> Evaluation:
        """Load a candidate (None: the weights that the engine holds) and score it on the tasks.

        limit: score only this many samples of each task, the first ones. known: scores by task that are not measured
        again. race: decides on the first rows whether the others are scored.

        Raises:
            ValueError: a tensor of the candidate is not finite, or a score is not in [0, 1].
            Exception: any other error of the engine or a task; see `failures.single_cause` for groups of them.
        """
        start = time.perf_counter()
        if candidate is not None:
            self._engine.load(candidate)
        loaded = time.perf_counter()
        jobs = [(task, task.samples(rows)[:limit]) for task in self._suite if task.name not in (known or {})]
        scoring = self._score(jobs) if race is None else self._score_in_race(jobs, race)
        results = self._event_loop.run(_cancelling_others(scoring))
        scores = {name: result.score for name, result in results.items()} | dict(known or {})
        ordered = tuple(scores[task.name] for task in self._suite)
        counts = sum(len(result.samples) for result in results.values()), sum(len(samples) for _, samples in jobs)
        return Evaluation(results, ordered, loaded - start, time.perf_counter() - loaded, *counts)

    async def _score_in_race(self, jobs: Sequence[Job], race: Race) -> dict[str, TaskResult]:
        """Score the first rows, and the others only if the candidate has not lost on these."""
        first = [race.first(len(samples)) for _, samples in jobs]
        results = await self._score([_select(job, places) for job, places in zip(jobs, first, strict=True)])
        partials = [
            Partial(results[task.name].score, len(results[task.name].samples), len(samples)) for task, samples in jobs
        ]
        others = [sorted({*range(len(samples))} - {*places}) for (_, samples), places in zip(jobs, first, strict=True)]
        if race.lost(partials):
            return {
                task.name: replace(results[task.name], unscored=tuple(places))
                for (task, _), places in zip(jobs, others, strict=True)
            }
        rest = await self._score([_select(job, places) for job, places in zip(jobs, others, strict=True)])
        return {
            task.name: _combine((places, results[task.name]), (other_places, rest[task.name]))
            for (task, _), places, other_places in zip(jobs, first, others, strict=True)
        }

    async def _score(self, jobs: Sequence[Job]) -> dict[str, TaskResult]:
        """Score all samples of all tasks concurrently, so that a slow sample does not delay the others."""
        async with asyncio.TaskGroup() as group:
            running = [
                (task, samples, [group.create_task(self._sample(task, sample)) for sample in samples])
                for task, samples in jobs
            ]
        return {
            task.name: TaskResult(tuple(sample.id for sample in samples), tuple(done.result() for done in tasks))
            for task, samples, tasks in running
        }

    async def _sample(self, task: SuiteTask, sample: Sample) -> Outcome:
        model = TokenCounter(self._engine)
        outcome = checked_outcome(
            await score_within_limits(task.task, sample, model), f"task {task.name}, sample {sample.id}"
        )
        return replace(outcome, tokens=model.tokens)

    def prepare(self, candidate: Candidate) -> None:
        """Announce the next candidate; see `Engine.prepare`."""
        self._engine.prepare(candidate)

    def close(self) -> None:
        """Free the engine."""
        self._event_loop.close()
        self._engine.close()


def checked_outcome(outcome: Any, place: str) -> Outcome:
    """The outcome that a task returned, with its score as a float. place: task and sample, for messages.

    Raises:
        ValueError: it is no `Outcome`, or its score is not from 0 to 1.
    """
    if not isinstance(outcome, Outcome):
        raise ValueError(f"{place}: the result is of type {type(outcome).__name__}, not an Outcome")
    if not isinstance(outcome.score, Real) or not 0 <= outcome.score <= 1:
        raise ValueError(f"{place}: score {outcome.score!r} is not in [0, 1]")
    return replace(outcome, score=float(outcome.score))


async def _cancelling_others(scoring: Coroutine[Any, Any, dict[str, TaskResult]]) -> dict[str, TaskResult]:
    """The result of `scoring`. If it fails, all other tasks of the event loop are cancelled: otherwise the engine would
    answer their requests with the next candidate's weights."""
    try:
        return await scoring
    except BaseException:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        raise


def _select(job: Job, places: Sequence[int]) -> Job:
    task, samples = job
    return task, [samples[place] for place in places]


def _combine(*parts: tuple[Sequence[int], TaskResult]) -> TaskResult:
    """One result from several, each with the places of its samples among all."""
    rows = [row for places, part in parts for row in zip(places, part.samples, part.outcomes, strict=True)]
    _, samples, outcomes = zip(*sorted(rows, key=lambda row: row[0]), strict=True)
    return TaskResult(samples, outcomes)
