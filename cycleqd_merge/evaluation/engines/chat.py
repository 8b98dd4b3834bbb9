"""Requests with chat turns, which both engines reduce to requests with text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from cycleqd_merge.merging.chat_templates import Rendered, TemplateLimit, render
from cycleqd_merge.tasks.protocol import Completion, LanguageModel, Message, Sampling


class ChatModel(LanguageModel):
    """A `LanguageModel` that renders chat turns, and passes the text on to its `complete` and `likelihood`."""

    _tokenizer: PreTrainedTokenizerBase

    async def chat(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        template: str | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> Completion:
        try:
            prompt = self.render(messages, template, variables)
        except TemplateLimit:  # on these turns alone: the ones that open a conversation were checked before the run
            return Completion("", 0, truncated=True)
        return await self.complete(prompt, sampling)

    async def logprobs(
        self, prompt: str | Sequence[Message], continuation: str, template: str | None = None
    ) -> list[float]:
        text = prompt if isinstance(prompt, str) else self.render(prompt, template)
        return list((await self.likelihood(text, continuation)).logprobs)

    def render(
        self, messages: Sequence[Message], template: str | None = None, variables: Mapping[str, Any] | None = None
    ) -> Rendered:
        return render(self._tokenizer, messages, template, variables)
