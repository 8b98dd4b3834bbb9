"""Counting the tokens that a model generates for a sample, for any kind of task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cycleqd_merge.tasks.forwarding import ForwardingModel
from cycleqd_merge.tasks.protocol import Completion, Message, Sampling


@dataclass
class TokenCounter(ForwardingModel):
    """A model that counts what it passes on. tokens: the number of tokens generated so far."""

    tokens: int = 0

    async def chat(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        template: str | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> Completion:
        return self._counted(await super().chat(messages, sampling, template, variables))

    async def complete(self, prompt: str, sampling: Sampling) -> Completion:
        return self._counted(await super().complete(prompt, sampling))

    def _counted(self, completion: Completion) -> Completion:
        self.tokens += completion.tokens
        return completion
