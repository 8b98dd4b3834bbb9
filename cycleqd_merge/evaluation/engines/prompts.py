"""Prompts as text and token ids: the same for every engine and for the checks before a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jinja2
from transformers import PreTrainedTokenizerBase

from cycleqd_merge.config.tasks import PromptedTaskConfig
from cycleqd_merge.errors import TaskError, UserError
from cycleqd_merge.tasks.generate import GenerateTask
from cycleqd_merge.tasks.protocol import Message, Prompting, Sample


class Rendered(str):
    """Text rendered by a chat template, which includes special tokens."""

    __slots__ = ()


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], template: str | None) -> Rendered:
    """Chat turns as one prompt, by `template` or the tokenizer's own; if the assistant's turn is last, it is continued.

    Raises:
        TaskError: there is no chat template, or it rejects these turns.
    """
    if template is None and not tokenizer.chat_template:
        raise TaskError("the model has no chat template; give the task a `chat_template` or a plain prompt")
    begun = bool(messages) and messages[-1]["role"] == "assistant"
    try:
        text = tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            chat_template=template,
            add_generation_prompt=not begun,
            continue_final_message=begun,
            tokenize=False,
        )
    except jinja2.TemplateError as error:
        raise TaskError(f"the chat template rejects these turns: {error}") from error
    return Rendered(text)


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a plain or rendered prompt."""
    special = not isinstance(text, Rendered)  # a chat template adds its special tokens itself
    return list(tokenizer(text, add_special_tokens=special).input_ids)


def encode_pair(
    encode: Callable[[str], list[int]], text: str, continuation: str, start: int | None = None
) -> tuple[list[int], int]:
    """Token ids of a prompt and its continuation, and the number of tokens at the end that are the continuation's.

    start: the token before the continuation of an empty prompt, if `encode` adds none itself.
    """
    before = encode(text) or [token for token in (start,) if token is not None]
    tokens = encode(type(text)(text + continuation))
    if not text and tokens[:1] != before[:1]:
        tokens = [*before, *tokens]
    return tokens, max(len(tokens) - len(before), 1)


def prompt_length(
    task: Prompting, definition: PromptedTaskConfig, sample: Sample, tokenizer: PreTrainedTokenizerBase
) -> tuple[int, int]:
    """Tokens of a sample's prompt, and the largest number that may follow: a choice to score, or an answer.

    Raises:
        TaskError: the prompt cannot be rendered; the message names the row.
    """
    prompt = task.prompt_of(sample)
    try:
        text = prompt if isinstance(prompt, str) else render(tokenizer, prompt, definition.chat_template)
    except UserError as error:
        raise TaskError(f"{error}; in row {sample.id}") from error
    before = len(encode(tokenizer, text))
    choices = task.choices_of(sample) if isinstance(task, GenerateTask) else []
    scored = [len(encode(tokenizer, type(text)(text + choice))) - before for choice in choices]
    return before, max(scored, default=definition.max_new_tokens)
