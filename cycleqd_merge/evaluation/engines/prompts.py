"""Prompts as text and token ids: the same for every engine and for the checks before a run."""

from __future__ import annotations

from collections.abc import Callable

from transformers import PreTrainedTokenizerBase

from cycleqd_merge.config.tasks import PromptedTaskConfig
from cycleqd_merge.errors import TaskError, UserError
from cycleqd_merge.merging.chat_templates import Rendered, render
from cycleqd_merge.tasks.generate import GenerateTask
from cycleqd_merge.tasks.protocol import Prompting, Sample


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
        text = (
            prompt
            if isinstance(prompt, str)
            else render(tokenizer, prompt, definition.chat_template, definition.template_variables)
        )
    except UserError as error:
        raise TaskError(f"{error}; in row {sample.id}") from error
    before = len(encode(tokenizer, text))
    choices = task.choices_of(sample) if isinstance(task, GenerateTask) else []
    scored = [len(encode(tokenizer, type(text)(text + choice))) - before for choice in choices]
    return before, max(scored, default=definition.max_new_tokens)
