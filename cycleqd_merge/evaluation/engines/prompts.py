"""Prompts as text and token ids: the same for every engine and for the checks before a run."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

from transformers import PreTrainedTokenizerBase

from cycleqd_merge.config.tasks import PromptedTaskConfig
from cycleqd_merge.errors import TaskError, UserError
from cycleqd_merge.merging.chat_templates import Rendered, render
from cycleqd_merge.merging.end_tokens import render_turns
from cycleqd_merge.tasks.generate import GenerateTask
from cycleqd_merge.tasks.protocol import Prompting, Sample


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a plain or rendered prompt; for one without tokens, a start token.

    Tokens that the tokenizer appends are removed, because a model would answer after its own end. A prompt begins with
    at most one BOS token: chat templates write it, tokenizers add it, and some of either do so twice.
    """
    special = not isinstance(text, Rendered)  # a chat template adds its special tokens itself
    tokens = _ids(tokenizer, text, special)
    tokens = tokens[: len(tokens) - len(_added(tokenizer, special)[1])]
    bos = tokenizer.bos_token_id
    while bos is not None and tokens[:2] == [bos, bos]:
        tokens = tokens[1:]
    return tokens or [_start(tokenizer)]


def encode_pair(encode: Callable[[str], list[int]], text: str, continuation: str) -> tuple[list[int], int]:
    """Token ids of a prompt with its continuation, and how many at the end are scored as the continuation's.

    They are counted as lm-evaluation-harness does (`TemplateLM._encode_pair`): blanks at the prompt's end belong to the
    continuation, because tokenizers join them to the next word, and the continuation has as many tokens as the whole
    text has more than the prompt. The model reads the tokens of the whole text, even if they do not begin with the
    prompt's. If the whole text has no more tokens than the prompt, those from the first that differs are scored.
    """
    kept = text.rstrip()
    before, whole = encode(type(text)(kept)), encode(type(text)(text + continuation))
    if before == encode(type(text)()) and whole[: len(before)] != before:
        whole = [*before, *whole]  # `encode` adds a start token to an empty text only
    if len(whole) > len(before):
        return whole, len(whole) - len(before)
    pairs = enumerate(zip(before, whole, strict=False))
    same = next((at for at, (one, other) in pairs if one != other), len(whole))
    if not same:  # a prompt of one token that the continuation changes: nothing is left to read before it
        return [*encode(type(text)()), *whole], len(whole)
    return whole, len(whole) - same


def encode_answer(encode: Callable[[str], list[int]], prompt: str, answer: str) -> list[int]:
    """Token ids of an answer as a model would generate it: after the tokens of the prompt alone.

    Where the tokenizer would join the prompt's end to the answer's first word, they are those after a line break.
    """
    for before in (prompt, Rendered("\n")):
        start, whole = encode(before), encode(type(before)(before + answer))
        if whole[: len(start)] == start:
            return whole[len(start) :]
    return encode(Rendered(answer))


def tokenizer_notices(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Notices about tokens that a tokenizer and its chat template add and that `encode` leaves out."""
    before, after = _added(tokenizer, True)
    chat = _ids(tokenizer, render_turns(tokenizer, [("user", _PROBE)]), False)
    notices = []
    appended = list(dict.fromkeys([*after, *_added(tokenizer, False)[1]]))
    if appended:
        named = ", ".join(repr(token) for token in tokenizer.convert_ids_to_tokens(appended))
        notices.append(
            f"base: its tokenizer appends {named} to every text; prompts are encoded without it, because models would "
            "answer after the end"
        )
    bos = tokenizer.bos_token_id
    if appended and bos not in (None, tokenizer.eos_token_id, *before):
        notices.append(
            f"base: its tokenizer does not write its BOS token {tokenizer.bos_token!r} before texts; if the models "
            "were trained with it, correct the post-processor in tokenizer.json"
        )
    for writer, tokens in (("tokenizer", before), ("chat template", chat)):
        if bos is not None and tokens[:2] == [bos, bos]:
            notices.append(f"base: its {writer} begins texts with {tokenizer.bos_token!r} twice; prompts keep one")
    return notices


_PROBE = "The answer is 12."


@lru_cache(maxsize=8)
def _added(tokenizer: PreTrainedTokenizerBase, special: bool) -> tuple[list[int], list[int]]:
    """The tokens that a tokenizer writes before and after every text, with or without `add_special_tokens`."""
    bare, whole, end = _ids(tokenizer, _PROBE, False), _ids(tokenizer, _PROBE, special), tokenizer.eos_token_id
    ends = next((count for count, token in enumerate(reversed(bare)) if token != end), 0)
    bare = bare[: len(bare) - ends]  # some tokenizers append an end token whatever they are asked
    at = next((at for at in range(len(whole)) if bare and whole[at : at + len(bare)] == bare), None)
    return ([], []) if at is None else (whole[:at], whole[at + len(bare) :])


def _ids(tokenizer: PreTrainedTokenizerBase, text: str, special: bool) -> list[int]:
    return list(tokenizer(text, add_special_tokens=special).input_ids)


def _start(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token before the answer to an empty prompt, as lm-evaluation-harness chooses it."""
    known = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    return next((token for token in known if token is not None), 0)


def prompt_length(
    task: Prompting, definition: PromptedTaskConfig, sample: Sample, tokenizer: PreTrainedTokenizerBase
) -> tuple[int, int]:
    """Tokens of a sample's prompt, and the largest number that may follow: an answer, or a choice and one more.

    Engines generate one token after a choice; see `AnswerReader.fitting_pair`.

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
    choices = task.choices_of(sample) if isinstance(task, GenerateTask) else []
    if not choices:
        return len(encode(tokenizer, text)), definition.max_new_tokens
    encoded = [encode_pair(partial(encode, tokenizer), text, choice) for choice in choices]
    for choice, (_, scored) in zip(choices, encoded, strict=True):
        if not scored:
            raise TaskError(f"choice {choice!r} adds no token to the prompt and cannot be scored; in row {sample.id}")
    return max(((len(tokens) - scored, scored + 1) for tokens, scored in encoded), key=sum)
