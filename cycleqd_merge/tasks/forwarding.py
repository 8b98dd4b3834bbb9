"""A language model around another one, for subclasses that watch or count its requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cycleqd_merge.tasks.protocol import Completion, LanguageModel, Likelihood, Message, Sampling


@dataclass
class ForwardingModel(LanguageModel):
    """A language model that passes every request on to `model`."""

    model: LanguageModel

    async def chat(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        template: str | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> Completion:
        return await self.model.chat(messages, sampling, template, variables)

    async def complete(self, prompt: str, sampling: Sampling) -> Completion:
        return await self.model.complete(prompt, sampling)

    async def logprobs(
        self, prompt: str | Sequence[Message], continuation: str, template: str | None = None
    ) -> list[float]:
        return await self.model.logprobs(prompt, continuation, template)

    async def likelihood(self, prompt: str, continuation: str) -> Likelihood:
        return await self.model.likelihood(prompt, continuation)

    def render(
        self, messages: Sequence[Message], template: str | None = None, variables: Mapping[str, Any] | None = None
    ) -> str:
        return self.model.render(messages, template, variables)
