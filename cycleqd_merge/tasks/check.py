"""Graders prove themselves: a scripted model gives known answers to a task's samples, through the task's own path."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class GradingCheck:
    """What became of one known answer: `right` is what it is, `score` what it got; `output` as in `Outcome`."""

    sample: str
    answer: str
    right: bool
    score: float
    output: str = ""

    @property
    def fair(self) -> bool:
        """Whether a right answer got everything, or a wrong one less than that."""
        return (self.score == 1.0) == self.right


@dataclass(frozen=True)
class Scripted(LanguageModel):
    """A language model that is a function from the prompt to its answer."""

    reply: Callable[[str | Sequence[Message]], str]

    async def chat(self, messages: Sequence[Message], sampling: Sampling, template: str | None = None) -> Completion:
        return await self.complete(messages, sampling)

    async def complete(self, prompt: str | Sequence[Message], sampling: Sampling) -> Completion:
        return Completion(self.reply(prompt), tokens=1, truncated=False)

    async def logprobs(
        self, prompt: str | Sequence[Message], continuation: str, template: str | None = None
    ) -> list[float]:
        """The likeliest continuation is the reply."""
        return [0.0 if continuation == self.reply(prompt) else -1.0]

    async def likelihood(self, prompt: str, continuation: str) -> Likelihood:
        """As `logprobs`."""
        return Likelihood(tuple(await self.logprobs(prompt, continuation)), continuation == self.reply(prompt))

    def render(self, messages: Sequence[Message], template: str | None = None) -> str:
        """The turns' texts, a line each."""
        return "\n".join(str(message["content"]) for message in messages)


async def check(task: Task, samples: Sequence[Sample]) -> list[GradingCheck]:
    """Let the task grade every known answer to the samples, all at once.

    Raises:
        TypeError: the task is not `Checkable`.
        InfrastructureError: the surroundings failed.
    """
    if not isinstance(task, Checkable):
        raise TypeError(f"{type(task).__name__} knows no answers to its samples")
    async with asyncio.TaskGroup() as group:
        running = [
            group.create_task(_grade(task, sample, answer))
            for sample in samples
            for answer in task.known_answers(sample)
        ]
    return [each.result() for each in running]


async def _grade(task: Task, sample: Sample, answer: KnownAnswer) -> GradingCheck:
    outcome = await task.score(sample, Scripted(answer.reply))
    return GradingCheck(sample.id, answer.name, answer.right, outcome.score, outcome.output)
