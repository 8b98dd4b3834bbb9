"""A worker: one engine, all tasks. It turns a candidate into scores."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from cycleqd_merge.evaluation.engines.engine import Engine
from cycleqd_merge.event_loop import EventLoop
from cycleqd_merge.evolution.candidate import Candidate
from cycleqd_merge.journal.outcomes import MOST_ROWS, RowOutcomes, outcomes_to_text
from cycleqd_merge.strategies.racing import Partial, Race
from cycleqd_merge.tasks.attempts import recording
from cycleqd_merge.tasks.limits import score_within_limits
from cycleqd_merge.tasks.protocol import Outcome, Sample, Split
from cycleqd_merge.tasks.targets import targets_of
from cycleqd_merge.tasks.token_counter import TokenCounter

if TYPE_CHECKING:
    from cycleqd_merge.fitting.examples import Example
    from cycleqd_merge.fitting.job import FitJob, FitResult
    from cycleqd_merge.merging.materialise import Materialiser
    from cycleqd_merge.tasks.suite import Suite, SuiteTask

log = logging.getLogger(__name__)


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
    score_seconds: time to load the weights and to score them. scored: number of rows scored, out of `rows`. examples:
    by name, of the tasks that were recorded, in the order of their samples.

    If the candidate lost its race, only the first rows were scored, and results and scores are those of these rows.
    """

    results: Mapping[str, TaskResult]
    scores: tuple[float, ...]
    load_seconds: float
    score_seconds: float
    scored: int = 0
    rows: int = 0
    examples: Mapping[str, tuple[Example, ...]] = field(default_factory=dict)

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
    """Evaluates one candidate after another on one engine.

    materialiser: of the engine's models; only fits need it. processes: that learn a fit together, this one included.
    per_gpu: workers that share a GPU.
    """

    def __init__(
        self,
        engine: Engine,
        suite: Suite,
        materialiser: Materialiser | None = None,
        processes: int = 1,
        per_gpu: int = 1,
    ) -> None:
        self._engine, self._suite, self._materialiser = engine, suite, materialiser
        self._processes, self._per_gpu = processes, per_gpu
        self._event_loop = EventLoop()
        self._recorded: dict[str, dict[str, tuple[Example, ...]]] = {}  # by task and sample

    def evaluate(
        self,
        candidate: Candidate | None,
        rows: Split = "search",
        limit: int | None = None,
        known: Mapping[str, float] | None = None,
        race: Race | None = None,
        record: Collection[str] = (),
    ) -> Evaluation:
        """Load a candidate (None: the weights that the engine holds) and score it on the tasks.

        limit: score only this many samples of each task, the first ones. known: scores by task that are not measured
        again. race: decides on the first rows whether the others are scored. record: names of tasks whose examples for
        a fit are wanted: what the model read and answered, as token ids; see `Targets`.

        Raises:
            ValueError: a tensor of the candidate is not finite, or a score is not in [0, 1].
            Exception: any other error of the engine or a task; see `failures.single_cause` for groups of them.
        """
        start = time.perf_counter()
        if candidate is not None:
            self._engine.load(candidate)
        loaded = time.perf_counter()
        jobs = [(task, task.samples(rows)[:limit]) for task in self._suite if task.name not in (known or {})]
        self._recorded = {task.name: {} for task, _ in jobs if task.name in record}
        scoring = self._score(jobs) if race is None else self._score_in_race(jobs, race)
        results = self._event_loop.run(_cancelling_others(scoring))
        scores = {name: result.score for name, result in results.items()} | dict(known or {})
        ordered = tuple(scores[task.name] for task in self._suite)
        counts = sum(len(result.samples) for result in results.values()), sum(len(samples) for _, samples in jobs)
        examples = {
            name: tuple(example for sample in results[name].samples for example in recorded[sample])
            for name, recorded in self._recorded.items()
        }
        return Evaluation(results, ordered, loaded - start, time.perf_counter() - loaded, *counts, examples)

    async def _score_in_race(self, jobs: Sequence[Job], race: Race) -> dict[str, TaskResult]:
        """Score the first rows, and the others only if the candidate has not lost on these."""
        chosen = [race.first(place, len(samples)) for place, (_, samples) in enumerate(jobs)]
        first = [each.places for each in chosen]
        results = await self._score([_select(job, places) for job, places in zip(jobs, first, strict=True)])
        partials = [
            Partial(results[task.name].score, len(results[task.name].samples), len(samples), rows.variance)
            for (task, samples), rows in zip(jobs, chosen, strict=True)
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
        place = f"task {task.name}, sample {sample.id}"
        model = TokenCounter(self._engine)
        if task.name not in self._recorded:
            outcome = checked_outcome(await score_within_limits(task.task, sample, model), place)
            return replace(outcome, tokens=model.tokens)
        from cycleqd_merge.evaluation.fit_examples import examples_of  # torch: only fits need it here

        with recording() as attempts:
            outcome = checked_outcome(await score_within_limits(task.task, sample, model), place)
        targets = targets_of(task.task, sample, outcome, place)
        examples = await examples_of(task.task, sample, targets, attempts, self._engine)
        self._recorded[task.name][sample.id] = examples
        if any(attempt.skipped for attempt in attempts):
            log.warning("%s: a prompt has images or sound and is left out of the fit, which learns text only", place)
        return replace(outcome, tokens=model.tokens)

    def fit(self, jobs: Sequence[FitJob], received: Callable[[FitResult], None], together: int = 1) -> None:
        """Learn fits, one after the other, in the memory that the engine frees for them.

        The engine is released and restored once; the seconds for that are in the first and the last result, which is
        passed on when the engine is back. A fit that was interrupted on this host resumes, and one whose result was not
        recorded is not learned again; see `forget`.

        together: the most workers of this host that learn fits at the same time, this one included; they share its
        memory.

        Raises:
            UserError: the models cannot be fitted. After any error, the worker can only be closed.
            EngineLost: the engine cannot be restored.
            Exception: any other error of a fit, such as too little memory.
        """
        from cycleqd_merge.evaluation.fit_memory import Sharers  # torch, which nothing else here needs
        from cycleqd_merge.evaluation.fit_processes import helped
        from cycleqd_merge.evaluation.fits import learn_fits, released

        assert self._materialiser is not None
        last: FitResult | None = None
        sharers = Sharers(gpu=min(together, self._per_gpu), host=together * self._processes)
        released_engine = released(self._engine, self._materialiser.device)
        with released_engine as switch, helped(self._materialiser, jobs, self._processes, sharers):
            switch.ready()
            for result in learn_fits(self._materialiser, jobs, sharers):
                if last is None:
                    result = switch.counted(result, "release")
                else:
                    received(last)
                last = result
        if last is not None:
            received(switch.counted(last, "restore"))

    def forget(self, progress: str) -> None:
        """Remove the progress of a fit whose result is recorded; see `FitResult.progress`."""
        from cycleqd_merge.fitting.progress import KeptProgress  # torch, as above

        KeptProgress(progress).remove()

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
