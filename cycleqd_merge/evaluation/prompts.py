"""From chat turns to text to token ids, the same for every engine and for the checks before a run."""

from __future__ import annotations

from collections.abc import Sequence

import jinja2
from transformers import PreTrainedTokenizerBase

from cycleqd_merge.errors import UserError
from cycleqd_merge.tasks.protocol import Message


class Rendered(str):
    """Text that a chat template has rendered, special tokens included."""

    __slots__ = ()


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], template: str | None) -> Rendered:
    """Chat turns as one prompt, through `template` or the tokenizer's own.

    Raises:
        UserError: there is no chat template, or it refuses these turns.
    """
    if template is None and not tokenizer.chat_template:
        raise UserError("the model has no chat template; give the task a `chat_template` or a plain prompt")
    try:
        text = tokenizer.apply_chat_template(
            list(messages), chat_template=template, add_generation_prompt=True, tokenize=False
        )
    except jinja2.TemplateError as error:
        raise UserError(f"the chat template refuses these turns: {error}") from error
    return Rendered(text)


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a plain or rendered prompt."""
    special = not isinstance(text, Rendered)  # a chat template writes its special tokens itself
    return list(tokenizer(text, add_special_tokens=special).input_ids)
