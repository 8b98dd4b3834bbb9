"""Requests as both engines take them: chat turns become text, text becomes token ids, and fits record both."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from cycleqd_merge.evaluation.engines.answers import AnswerReader
from cycleqd_merge.evaluation.engines.prompts import encode, encode_answer, encode_pair
from cycleqd_merge.merging.chat_templates import Rendered, TemplateLimit, render
from cycleqd_merge.merging.end_tokens import turn_end
from cycleqd_merge.tasks.attempts import Turn, recording_text_only, requested
from cycleqd_merge.tasks.protocol import Completion, LanguageModel, Likelihood, Message, Sampling


class ChatModel(LanguageModel):
    """A `LanguageModel` that renders and encodes requests, for an engine that takes token ids."""

    _tokenizer: PreTrainedTokenizerBase
    _reader: AnswerReader

    @abstractmethod
    async def _generated(self, tokens: list[int], sampling: Sampling) -> tuple[Completion, Sequence[int]]:
        """The answer to a prompt's tokens, and the tokens that were generated, which may continue past its end."""

    @abstractmethod
    async def _scored(self, tokens: list[int], scored: int) -> Likelihood:
        """How likely the last `scored` of these tokens are after the others."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a plain or rendered prompt."""
        return encode(self._tokenizer, text)

    async def complete(self, prompt: str, sampling: Sampling) -> Completion:
        record = requested()
        tokens = self.encode(prompt)
        sampling = self._reader.fitting(sampling, len(tokens))
        if not sampling.max_new_tokens:
            return self._reader.read([], sampling)
        completion, generated = await self._generated(tokens, sampling)
        if record is not None:
            answer = self._reader.ended(generated, sampling)
            record(Turn(prompt, None, (*tokens, *answer), len(answer)))
        return completion

    async def likelihood(self, prompt: str, continuation: str) -> Likelihood:
        record = requested()
        tokens, scored = encode_pair(self.encode, prompt, continuation)
        if not scored:
            return Likelihood((), True)
        tokens = self._reader.fitting_pair(tokens, scored)
        likelihood = await self._scored(tokens, scored)
        if record is not None:
            record(Turn(prompt, continuation, tuple(tokens), scored))
        return likelihood

    def write(self, prompt: str, text: str, sampling: Sampling) -> Completion:
        """Record a text as if it were the model's answer to a prompt; returns it as `complete` returns an answer.

        It ends as an answer would: with the end token or, after a plain prompt, the first stop string if there is one.
        """
        record = requested()
        chat = isinstance(prompt, Rendered)
        stop = "" if chat or not sampling.stop else sampling.stop[0]
        before, whole = self.encode(prompt), encode_answer(self.encode, prompt, text + stop)
        end = self._reader.end_of(next(turn_end(self._tokenizer), None) if chat else None)
        sampling = self._reader.fitting(sampling, len(before))
        answer = [*whole, *([] if stop or end is None else [end])][: sampling.max_new_tokens]
        if record is not None and answer:
            record(Turn(prompt, None, (*before, *answer), len(answer)))
        return Completion(text, min(len(answer), len(whole)), truncated=len(answer) < len(whole))

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
        with recording_text_only(messages):
            return await self.complete(prompt, sampling)

    async def logprobs(
        self, prompt: str | Sequence[Message], continuation: str, template: str | None = None
    ) -> list[float]:
        text = prompt if isinstance(prompt, str) else self.render(prompt, template)
        with recording_text_only([] if isinstance(prompt, str) else prompt):
            return list((await self.likelihood(text, continuation)).logprobs)

    def render(
        self, messages: Sequence[Message], template: str | None = None, variables: Mapping[str, Any] | None = None
    ) -> Rendered:
        return render(self._tokenizer, messages, template, variables)
