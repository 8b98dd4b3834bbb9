"""The prompts of task definitions: plain text or chat turns, rendered for a row and sent to a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from cycleqd_merge.config.tasks import MessageConfig, PromptedTaskConfig
from cycleqd_merge.errors import DataError, RecipeError
from cycleqd_merge.tasks.bounded_templates import Template
from cycleqd_merge.tasks.protocol import Completion, LanguageModel, Message, Sampling
from cycleqd_merge.tasks.thinking import answer_of, opens_thought


@dataclass(frozen=True, slots=True)
class LaterTurns:
    """What follows the first prompt of a conversation.

    answers: largest number of the model's turns. reply: length of the longest reply to one, in characters. keys: the
    keys of the task definition that limit the conversation's length, for notices.
    """

    answers: int
    reply: int
    keys: str


@runtime_checkable
class Conversing(Protocol):
    """A task whose samples are conversations."""

    @property
    def later_turns(self) -> LaterTurns: ...


def with_answer(messages: Sequence[Message], answer: str) -> list[Message]:
    """A conversation with the model's answer, which continues the last turn if that is the assistant's."""
    if messages[-1]["role"] != "assistant":
        return [*messages, {"role": "assistant", "content": answer}]
    return [*messages[:-1], {"role": "assistant", "content": str(messages[-1]["content"]) + answer}]


class Prompt:
    """The prompt of a task definition.

    Raises:
        RecipeError: a template is not valid.
    """

    def __init__(self, definition: PromptedTaskConfig) -> None:
        self._definition = definition
        stated = definition.template_variables
        self._variables: dict[str, Any] = {} if stated is None else {"variables": stated}
        turns = definition.messages or [MessageConfig(role="user", content=definition.prompt or "")]
        self._field = "messages" if definition.messages else "prompt"
        self._turns = [(turn.role, parse_template(turn.content, self._field)) for turn in turns]

    def render(self, columns: Mapping[str, Any]) -> str | list[Message]:
        """The rendered prompt: plain text, or chat turns.

        Raises:
            DataError: see `render_template`.
        """
        messages: list[Message] = [
            {"role": role, "content": render_template(text, columns, self._field)} for role, text in self._turns
        ]
        if not self._definition.is_chat:
            return str(messages[0]["content"])
        if self._definition.system is not None:
            messages.insert(0, {"role": "system", "content": self._definition.system})
        return messages

    async def ask(self, model: LanguageModel, prompt: str | list[Message], sampling: Sampling) -> Completion:
        """The model's answer to a rendered prompt; its thoughts are part of it only if the task keeps them."""
        definition = self._definition
        if definition.thinking == "strip":  # the stop strings end the answer, not the thought before it
            completion = await self._complete(model, prompt, replace(sampling, stop=()))
        else:
            completion = await self._complete(model, prompt, sampling)
        if definition.thinking == "keep" or not completion.text:
            return completion
        return answer_of(completion, self._opens_thought(model, prompt), sampling.stop)

    async def _complete(self, model: LanguageModel, prompt: str | list[Message], sampling: Sampling) -> Completion:
        if isinstance(prompt, str):
            return await model.complete(prompt, sampling)
        return await model.chat(prompt, sampling, self._definition.chat_template, **self._variables)

    def _opens_thought(self, model: LanguageModel, prompt: str | list[Message]) -> bool:
        if isinstance(prompt, str):
            return opens_thought(prompt)
        begun = str(prompt[-1]["content"]) if prompt[-1]["role"] == "assistant" else ""
        return opens_thought(model.render(prompt, self._definition.chat_template, **self._variables), begun)

    def scored(self, model: LanguageModel, prompt: str | list[Message]) -> str | list[Message]:
        """A prompt whose continuations are to be scored: rendered, if the chat template is to be switched."""
        if isinstance(prompt, str) or not self._variables:
            return prompt
        return model.render(prompt, self._definition.chat_template, **self._variables)

    def answer_prefix(self, columns: Mapping[str, Any]) -> str:
        """The part of the answer that the prompt contains already: its last turn, if that is the assistant's."""
        role, text = self._turns[-1]
        return render_template(text, columns, self._field) if role == "assistant" else ""


def parse_template(text: str, field: str) -> Template:
    """A Jinja template in Jinja's sandbox. field: the key of the task definition, for errors and its rules.

    Raises:
        RecipeError: it is not a template.
    """
    try:
        return Template.parse(text, is_reference=field == "answer")
    except RecipeError as error:
        raise RecipeError(f"{field}: {error}") from None


def render_template(template: Template, columns: Mapping[str, Any], field: str) -> str:
    """Fill in a template. field: the key of the task definition, for errors.

    Raises:
        DataError: a column is missing or null, or the template fails on these values.
        RecipeError: the template exceeds its limit of time or memory.
    """
    try:
        return template.fill(columns)
    except (DataError, RecipeError) as error:
        raise type(error)(f"{field}: {error}") from error
