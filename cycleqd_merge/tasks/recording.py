"""Recording a task's requests and a model's replies, for any kind of task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cycleqd_merge.errors import CycleQDError
from cycleqd_merge.tasks.forwarding import ForwardingModel
from cycleqd_merge.tasks.protocol import Completion, LanguageModel, Likelihood, Message, Sampling


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request of a task, and the model's reply.

    turns: the chat turns of the prompt; None if it is plain text. prompt: the text that the model continues, turns
    rendered by the chat template. continuation: the text whose likelihood was asked for; None if the model generates.
    answer: the generated text. logprob: the continuation's log-probability (natural logarithm).
    """

    turns: tuple[Message, ...] | None
    prompt: str
    continuation: str | None = None
    answer: str | None = None
    truncated: bool = False
    logprob: float | None = None

    @classmethod
    def unanswered(cls, prompt: str | Sequence[Message], continuation: str | None = None) -> Exchange:
        """A request that no model has seen: chat turns are not rendered."""
        if isinstance(prompt, str):
            return cls(None, prompt, continuation)
        return cls(tuple(dict(message) for message in prompt), "", continuation)


@dataclass
class Recorder(ForwardingModel):
    """A model that keeps the requests that it passes on in `exchanges`."""

    exchanges: list[Exchange] = field(default_factory=list)

    async def chat(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        template: str | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> Completion:
        turns = tuple(dict(message) for message in messages)
        completion = await super().chat(messages, sampling, template, variables)
        try:
            prompt = self.render(messages, template, variables)
        except CycleQDError:  # the model could not read these turns either: its answer is empty
            prompt = ""
        self.exchanges.append(Exchange(turns, prompt, answer=completion.text, truncated=completion.truncated))
        return completion

    async def complete(self, prompt: str, sampling: Sampling) -> Completion:
        completion = await super().complete(prompt, sampling)
        self.exchanges.append(Exchange(None, prompt, answer=completion.text, truncated=completion.truncated))
        return completion

    async def logprobs(
        self, prompt: str | Sequence[Message], continuation: str, template: str | None = None
    ) -> list[float]:
        logprobs = await super().logprobs(prompt, continuation, template)
        turns = None if isinstance(prompt, str) else tuple(dict(message) for message in prompt)
        text = prompt if isinstance(prompt, str) else self.render(prompt, template)
        self.exchanges.append(Exchange(turns, text, continuation, logprob=sum(logprobs)))
        return logprobs

    async def likelihood(self, prompt: str, continuation: str) -> Likelihood:
        likelihood = await super().likelihood(prompt, continuation)
        self.exchanges.append(Exchange(None, prompt, continuation, logprob=sum(likelihood.logprobs)))
        return likelihood


class AskedError(Exception):
    """The model was asked: the prompt is known."""


class Unanswered(LanguageModel):
    """A model that answers nothing: it keeps the requests of a task whose prompts are not known without a model."""

    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []

    async def chat(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        template: str | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> Completion:
        raise self._asked(Exchange.unanswered(messages))

    async def complete(self, prompt: str, sampling: Sampling) -> Completion:
        raise self._asked(Exchange.unanswered(prompt))

    async def logprobs(
        self, prompt: str | Sequence[Message], continuation: str, template: str | None = None
    ) -> list[float]:
        raise self._asked(Exchange.unanswered(prompt, continuation))

    async def likelihood(self, prompt: str, continuation: str) -> Likelihood:
        raise self._asked(Exchange.unanswered(prompt, continuation))

    def render(
        self, messages: Sequence[Message], template: str | None = None, variables: Mapping[str, Any] | None = None
    ) -> str:
        return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)

    def _asked(self, exchange: Exchange) -> AskedError:
        self.exchanges.append(exchange)
        return AskedError()
