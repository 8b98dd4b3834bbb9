"""Prompts as task files state them: a plain text or chat turns, rendered for a row and asked of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jinja2
from jinja2.sandbox import SandboxedEnvironment

from cycleqd_merge.config.tasks import MessageConfig, PromptedTaskConfig
from cycleqd_merge.errors import UserError
from cycleqd_merge.tasks.protocol import Completion, LanguageModel, Message, Sampling

_JINJA = SandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)


class Prompt:
    """The prompt of a task definition.

    Raises:
        UserError: a template is none.
    """

    def __init__(self, definition: PromptedTaskConfig) -> None:
        self._definition = definition
        turns = definition.messages or [MessageConfig(role="user", content=definition.prompt or "")]
        self._field = "messages" if definition.messages else "prompt"
        self._turns = [(turn.role, template(turn.content, self._field)) for turn in turns]

    def of(self, columns: Mapping[str, Any]) -> str | list[Message]:
        """The rendered prompt: plain text, or chat turns.

        Raises:
            UserError: a template names a column that is not there, or cannot be rendered.
        """
        messages: list[Message] = [
            {"role": role, "content": rendered(text, columns, self._field)} for role, text in self._turns
        ]
        if not self._definition.is_chat:
            return str(messages[0]["content"])
        if self._definition.system is not None:
            messages.insert(0, {"role": "system", "content": self._definition.system})
        return messages

    async def ask(self, model: LanguageModel, prompt: str | list[Message], sampling: Sampling) -> Completion:
        """The model's answer to a rendered prompt."""
        if isinstance(prompt, str):
            return await model.complete(prompt, sampling)
        return await model.chat(prompt, sampling, self._definition.chat_template)

    def begun(self, columns: Mapping[str, Any]) -> str:
        """What the prompt says of the answer already: the last turn, if that is the assistant's."""
        role, text = self._turns[-1]
        return rendered(text, columns, self._field) if role == "assistant" else ""


def template(text: str, field: str) -> jinja2.Template:
    """A Jinja template in its sandbox.

    Raises:
        UserError: it is none.
    """
    try:
        return _JINJA.from_string(text)
    except jinja2.TemplateSyntaxError as error:
        raise UserError(f"{field}: not a template: {error.message}") from None


def rendered(text: jinja2.Template, columns: Mapping[str, Any], field: str) -> str:
    """A template over columns.

    Raises:
        UserError: it names a column that is not there, or cannot be rendered.
    """
    try:
        return text.render(columns)
    except jinja2.UndefinedError as error:
        raise UserError(f"{field}: {error.message}; the row has the columns {', '.join(columns)}") from None
    except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"{field}: cannot be rendered: {error}") from error
