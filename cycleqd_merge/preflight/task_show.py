"""Showing a task's prompts and a model's answers outside any run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeVar

from cycleqd_merge.config.engines import TransformersEngineConfig
from cycleqd_merge.config.recipe import ModelsConfig
from cycleqd_merge.errors import TaskError, UserError, first_line
from cycleqd_merge.evaluation.failures import is_infrastructure, single_cause
from cycleqd_merge.evaluation.worker import checked_outcome
from cycleqd_merge.event_loop import run_coroutine
from cycleqd_merge.preflight.task_check import open_alone
from cycleqd_merge.tasks import limits
from cycleqd_merge.tasks.generate import GenerateTask
from cycleqd_merge.tasks.protocol import (
    LanguageModel,
    Outcome,
    Prompting,
    Referenced,
    Sample,
    Task,
    TaskSplit,
)
from cycleqd_merge.tasks.recording import AskedError, Exchange, Recorder, Unanswered
from cycleqd_merge.tasks.splits import row_place
from cycleqd_merge.tasks.suite import require_environments

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class ShownExchange:
    """An exchange and, if asked for, the token ids that the model reads.

    scored: the number of them, at the end, whose likelihood is the continuation's.
    """

    exchange: Exchange
    tokens: tuple[int, ...] | None = None
    scored: int | None = None


@dataclass(frozen=True, slots=True)
class ShownSample:
    """A sample of a task: its requests in order and, with a model, the replies and the outcome.

    reference: the task's reference answer; None if the task has none to show. place: where its row is, as `row_place`.
    """

    sample: str
    exchanges: tuple[ShownExchange, ...]
    reference: str | None
    outcome: Outcome | None = None
    place: str = ""


@dataclass(frozen=True, slots=True)
class ShownTask:
    """The first samples of a split. available: the number of samples of the split."""

    split: TaskSplit
    available: int
    samples: tuple[ShownSample, ...]


def show_task(
    reference: str,
    model: str | None = None,
    split: TaskSplit = "search",
    limit: int = 3,
    tokens: bool = False,
    models: ModelsConfig | None = None,
) -> ShownTask:
    """The first `limit` samples of a task, with their prompts; with a model, its answers and their scores too.

    model: a folder, a Hub id, or `base+adapter`; it is loaded by transformers. tokens: include token ids, which
    requires a model. models: how the model is opened.

    Raises:
        UserError: task or model cannot be opened, or do not fit together.
        InfrastructureError: sandbox or database failed.
    """
    if tokens and model is None:
        raise TaskError("token ids depend on the model: add --model")
    opened = open_alone(reference)
    samples = opened.task.samples(split)
    if model is None:
        shown = [_prompt_only(opened.task, sample) for sample in samples[:limit]]
    else:
        require_environments((opened,))
        shown = _answered(opened.task, samples[:limit], model, models or ModelsConfig(), tokens)
    return ShownTask(split, len(samples), tuple(shown))


def _prompt_only(task: Task, sample: Sample) -> ShownSample:
    if isinstance(task, Prompting):
        prompt = task.prompt_of(sample)
        choices: Sequence[str | None] = task.choices_of(sample) if isinstance(task, GenerateTask) else []
        exchanges = [Exchange.unanswered(prompt, choice) for choice in choices or (None,)]
    else:
        exchanges = _run(_first_requests(task, sample))
    shown = tuple(map(ShownExchange, exchanges))
    return ShownSample(sample.id, shown, _reference(task, sample), place=row_place(sample))


def _reference(task: Task, sample: Sample) -> str | None:
    return task.reference_of(sample) if isinstance(task, Referenced) else None


def _answered(
    task: Task, samples: Sequence[Sample], reference: str, models: ModelsConfig, tokens: bool
) -> list[ShownSample]:
    """Let a model answer the samples, all at once."""
    from cycleqd_merge.evaluation.engines.transformers_engine import TransformersEngine
    from cycleqd_merge.outputs.single_model import open_model

    materialiser, adapter = open_model(reference, models)
    with closing(TransformersEngine(TransformersEngineConfig(), materialiser)) as engine:
        if adapter is not None:
            engine.load(adapter)
        encode = engine.encode if tokens else None
        return _run(_scored(task, samples, engine, encode))


async def _scored(
    task: Task, samples: Sequence[Sample], model: LanguageModel, encode: Callable[[str], list[int]] | None
) -> list[ShownSample]:
    async def score(sample: Sample) -> ShownSample:
        recorder = Recorder(model)
        outcome = checked_outcome(await limits.score_within_limits(task, sample, recorder), f"sample {sample.id}")
        exchanges = tuple(_encoded(exchange, encode) for exchange in recorder.exchanges)
        return ShownSample(sample.id, exchanges, _reference(task, sample), outcome, row_place(sample))

    async with asyncio.TaskGroup() as group:
        running = [group.create_task(score(sample)) for sample in samples]
    return [each.result() for each in running]


def _encoded(exchange: Exchange, encode: Callable[[str], list[int]] | None) -> ShownExchange:
    if encode is None:
        return ShownExchange(exchange)
    if exchange.continuation is None:
        return ShownExchange(exchange, tuple(encode(exchange.prompt)))
    from cycleqd_merge.evaluation.engines.prompts import encode_pair

    tokens, scored = encode_pair(encode, exchange.prompt, exchange.continuation)
    return ShownExchange(exchange, tuple(tokens), scored)


def _run(coroutine: Coroutine[Any, Any, _Result]) -> _Result:
    """The result of a coroutine. An error of the task's own code becomes one line."""
    try:
        return run_coroutine(coroutine)
    except Exception as error:
        cause = single_cause(error)
        if is_infrastructure(cause) or isinstance(cause, UserError):
            raise cause from error
        raise TaskError(f"the task fails: {type(cause).__name__}: {first_line(cause)}") from cause


async def _first_requests(task: Task, sample: Sample) -> list[Exchange]:
    """The requests that a task makes before it needs an answer."""
    model = Unanswered()
    try:
        await task.score(sample, model)
    except* AskedError:
        await asyncio.sleep(0)  # requests that were made at the same time
    return model.exchanges
