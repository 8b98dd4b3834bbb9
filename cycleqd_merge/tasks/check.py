"""Checking a task's grader: a scripted model gives known answers to the task's samples, and the task scores them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cycleqd_merge.tasks.protocol import (
    Checkable,
    Completion,
    KnownAnswer,
    LanguageModel,
    Likelihood,
    Message,
    Sample,
    Sampling,
    Task,
)
from cycleqd_merge.tasks.splits import row_place


@dataclass(frozen=True, slots=True)
class GradingCheck:
    """The grade of one known answer. answer, right: its name and whether it is right, as in `KnownAnswer`.

    sample: the sample's id. score, output: as in `Outcome`. place: where the sample's row is, as `row_place`.
    """

    sample: str
    answer: str
    right: bool
    score: float
    output: str = ""
    place: str = ""

    @property
    def passed(self) -> bool:
        """Whether a right answer scored 1, or a wrong one less than 1."""
        return (self.score == 1.0) == self.right


@dataclass(frozen=True)
class ScriptedModel(LanguageModel):
    """A language model whose answer is a function of the prompt."""

    reply: Callable[[str | Sequence[Message]], str]

    async def chat(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        template: str | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> Completion:
        return await self.complete(messages, sampling)

    async def complete(self, prompt: str | Sequence[Message], sampling: Sampling) -> Completion:
        return Completion(self.reply(prompt), tokens=1, truncated=False)

    async def logprobs(
        self, prompt: str | Sequence[Message], continuation: str, template: str | None = None
    ) -> list[float]:
        """Its own reply is the most likely continuation."""
        return [0.0 if continuation == self.reply(prompt) else -1.0]

    async def likelihood(self, prompt: str, continuation: str) -> Likelihood:
        """As `logprobs`."""
        return Likelihood(tuple(await self.logprobs(prompt, continuation)), continuation == self.reply(prompt))

    def render(
        self, messages: Sequence[Message], template: str | None = None, variables: Mapping[str, Any] | None = None
    ) -> str:
        """The text of each turn on a line."""
        return "\n".join(str(message["content"]) for message in messages)


async def check(task: Task, samples: Sequence[Sample]) -> list[GradingCheck]:
    """Let the task score every known answer to the samples, all at once.

    Raises:
        TypeError: the task is not `Checkable`.
        InfrastructureError: a sandbox, database or disk failed.
    """
    if not isinstance(task, Checkable):
        raise TypeError(f"{type(task).__name__} has no known answers to its samples")
    async with asyncio.TaskGroup() as group:
        running = [
            group.create_task(_grade(task, sample, answer))
            for sample in samples
            for answer in task.known_answers(sample)
        ]
    return [each.result() for each in running]


async def _grade(task: Task, sample: Sample, answer: KnownAnswer) -> GradingCheck:
    outcome = await task.score(sample, ScriptedModel(answer.reply))
    return GradingCheck(sample.id, answer.name, answer.right, outcome.score, outcome.output, row_place(sample))
