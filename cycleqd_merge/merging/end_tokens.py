"""The tokens that end an answer: the same ones for both engines, exported models and model cards."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from cycleqd_merge.errors import RecipeError, TaskError
from cycleqd_merge.merging.chat_templates import render_closed
from cycleqd_merge.merging.family import ModelFamily
from cycleqd_merge.merging.json_files import json_object
from cycleqd_merge.merging.tokenizer_folders import has_tokenizer
from cycleqd_merge.merging.tokenizers import chat_expert, family_tokenizer, load_tokenizer

_MOST_IDS = 1000
_ANSWER = "Aanswerz"
_TOKEN = re.compile(r"<\|[^<>|\s]{1,40}\|>|<｜[^<>｜\s]{1,40}｜>|<(?:start|end)_of_turn>")  # noqa: RUF001
"""The usual spellings of the tokens in chat templates."""
_USER, _ASSISTANT = "user", "assistant"
_TEXT_CONFIGS = ("decoder", "generator", "text_config")  # as GenerationConfig.from_model_config looks for them


@dataclass(frozen=True)
class EndTokens:
    """The ids after which an answer ends, in a child's tokenizer, and what a user should know about them."""

    ids: tuple[int, ...]
    notices: tuple[str, ...] = ()
    left_out: frozenset[str | int] = frozenset()
    """Tokens, or ids of no token, that a model states but that do not count."""


@lru_cache(maxsize=1)  # checks, exports and the engine ask for the same family's, and tokenizers are slow to load
def end_tokens(family: ModelFamily) -> EndTokens:
    """The tokens that end the answers of a family's children.

    They are `models.end_tokens` or, without it, those of the base, those of the model whose chat template is used, and
    the token that this template puts after an assistant's turn. Tokens that are neither special nor added tokens of the
    children's tokenizer are left out, each with a notice: fine-tunes often state a wrong id, which would cut answers.

    Raises:
        RecipeError: `models.end_tokens` names an unknown token.
        ModelError: a tokenizer cannot be loaded.
    """
    child, expert = family_tokenizer(family), chat_expert(family)
    if family.models.end_tokens is not None:
        return EndTokens(tuple(dict.fromkeys(_token_id(each, child) for each in family.models.end_tokens)))
    counted = [("base", token) for token in _own_tokens(family.base.path, child)]
    theirs = child
    if expert is not None:
        theirs = _tokenizer_of(expert.folder, family, child)
        own = (*_own_tokens(expert.folder, theirs), *turn_end(theirs))
        counted += [(f"expert {expert.name}", token) for token in own]
    counted += [("models.chat_template", token) for token in turn_end(child)]
    known, unwritable = special_and_added(child), _unknown_template_tokens(family, child, theirs)
    left_out: dict[str | int, str] = {}
    for owner, token in counted:
        if token not in known:
            left_out.setdefault(token, owner)
    notices = [
        f"{owner}: end token {_shown(token, child)} is neither a special nor an added token of the children's "
        "tokenizer and is left out; `models.end_tokens` can state the end tokens"
        for token, owner in left_out.items()
        if token not in unwritable
    ]
    if unwritable:
        notices.append(
            f"models.chat_template: the template's {', '.join(map(repr, unwritable))} are not tokens of the children's "
            "tokenizer: prompts split them, and no answer ends at them; choose a template whose tokens the base knows"
        )
    ids = dict.fromkeys(known[token] for _, token in counted if token in known)
    return EndTokens(tuple(ids), tuple(notices), frozenset(left_out))


def end_token_differences(family: ModelFamily, found: EndTokens) -> list[str]:
    """A notice for the base and each expert that ends its own answers with tokens other than the children's, `found`.

    Raises:
        ModelError: a tokenizer cannot be loaded.
    """
    child = family_tokenizer(family)
    ours = [_token(number, child) for number in found.ids]
    shown = ", ".join(_shown(token, child) for token in ours) or "no token"
    notices = []
    for name, folder in (("base", family.base.path), *((f"expert {e.name}", e.folder) for e in family.experts)):
        if not (has_tokenizer(folder) or (folder / "config.json").is_file()):
            continue  # an adapter that states nothing
        tokenizer = child if name == "base" else _tokenizer_of(folder, family, child)
        own = list(_own_tokens(folder, tokenizer))
        if set(own) - found.left_out != set(ours):
            theirs = ", ".join(_shown(token, tokenizer) for token in own) or "no token"
            notices.append(f"{name}: ends its answers with {theirs}; the children end theirs with {shown}")
    return [*notices, *_divided_base(family, child, set(found.ids))]


def _divided_base(family: ModelFamily, child: PreTrainedTokenizerBase, counted: set[int]) -> list[str]:
    """A notice if the base's configuration ends answers with other tokens than its tokenizer."""
    end, stated = child.eos_token_id, [number for number in stated_end_tokens(family.base.path) if number in counted]
    if not stated or end in stated or end not in counted:
        return []
    theirs = ", ".join(_shown(_token(number, child), child) for number in stated)
    own = _shown(_token(end, child), child)
    return [f"base: its configuration ends answers with {theirs}, and its tokenizer with {own}; either ends an answer"]


def _tokenizer_of(folder: Path, family: ModelFamily, child: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A model's own tokenizer, or the children's if it has none."""
    return load_tokenizer(folder, family) if has_tokenizer(folder) else child


def _unknown_template_tokens(
    family: ModelFamily, child: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerBase
) -> list[str]:
    """The tokens that the chosen chat template writes and the children's tokenizer does not know.

    theirs: the tokenizer of the expert with the template.
    """
    if family.models.chat_template in (None, "base"):
        return []
    text = render_turns(child, [(_USER, "Hello"), (_ASSISTANT, _ANSWER)])
    written = (
        _TOKEN.findall(text) if theirs is child else [token for token in special_and_added(theirs) if token in text]
    )
    return sorted(set(written) - child.get_vocab().keys())


def stated_end_tokens(folder: Path) -> tuple[Any, ...]:
    """The ids in a model folder that transformers ends answers with: generation_config.json's, else config.json's.

    Raises:
        ModelError: one of these is not a JSON object.
    """
    generation, config = (json_object(folder / name) for name in ("generation_config.json", "config.json"))
    places = (generation, config, *(part for name in _TEXT_CONFIGS if isinstance(part := config.get(name), dict)))
    return next((found for place in places if (found := listed_ids(place.get("eos_token_id")))), ())


def listed_ids(value: Any) -> tuple[Any, ...]:
    """An `eos_token_id`, which may be a number, several, or null; anything else in it is left out."""
    listed = value if isinstance(value, list) else [value]
    return tuple(each for each in listed[:_MOST_IDS] if isinstance(each, int | str))


def _own_tokens(folder: Path, tokenizer: PreTrainedTokenizerBase) -> Iterator[str | int]:
    """The tokens that a model's files end its answers with, its tokenizer's included; an id if it is no token's."""
    seen = set()
    for number in (*stated_end_tokens(folder), tokenizer.eos_token_id):
        if number is not None:
            token = _token(number, tokenizer)
            if token not in seen:
                seen.add(token)
                yield token


def _token(number: Any, tokenizer: PreTrainedTokenizerBase) -> str | int:
    """The token with an id, or the id itself if no token has it."""
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 2**31:
        return number if isinstance(number, int) else str(number)
    try:
        token = tokenizer.convert_ids_to_tokens(number)
        known = token is not None and tokenizer.convert_tokens_to_ids(token) == number  # unknown ids may give `<unk>`
    except (IndexError, KeyError, ValueError):
        return number
    return str(token) if known else number


def special_and_added(tokenizer: PreTrainedTokenizerBase) -> dict[Any, int]:
    """The special and added tokens of a tokenizer, with their ids."""
    added = {str(token): number for number, token in tokenizer.added_tokens_decoder.items()}
    convert: Any = tokenizer.convert_tokens_to_ids
    special: dict[str, int | None] = {str(token): convert(str(token)) for token in tokenizer.all_special_tokens}
    return {token: number for token, number in (added | special).items() if number is not None and token.strip()}


def turn_end(tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """The special or added token that a tokenizer's chat template puts right after an assistant's turn, if any.

    After the last turn of a conversation; if there is none, before a following user's turn.
    """
    tokens = sorted(special_and_added(tokenizer), key=len, reverse=True)
    turns = [(_USER, "Hello"), (_ASSISTANT, _ANSWER)]
    for conversation in (turns, [*turns, (_USER, "Hello")]):
        _, found, after = render_turns(tokenizer, conversation).rpartition(_ANSWER)
        token = next((token for token in tokens if found and after.lstrip().startswith(token)), None)
        if token is not None:
            yield token
            return


def render_turns(tokenizer: PreTrainedTokenizerBase, turns: Sequence[tuple[str, str]]) -> str:
    """A conversation of (role, content) as the tokenizer's chat template writes it; empty if it cannot."""
    for content in (str, lambda text: [{"type": "text", "text": text}]):  # templates of multimodal models take parts
        messages = [{"role": role, "content": content(text)} for role, text in turns]
        try:
            text = render_closed(tokenizer, messages)
        except TaskError:  # the tasks that use the template report it
            continue
        if turns[-1][1] in text:
            return text
    return ""


def _token_id(named: str | int, tokenizer: PreTrainedTokenizerBase) -> int:
    """The id of a token that `models.end_tokens` names."""
    vocabulary = tokenizer.get_vocab()
    number = vocabulary.get(named) if isinstance(named, str) else named
    if number is None or number not in vocabulary.values():
        raise RecipeError(
            f"models.end_tokens: {named!r} is not a token of the children's tokenizer; state tokens such as "
            f"{tokenizer.eos_token or '</s>'!r}, or their ids"
        )
    return number


def _shown(token: str | int, tokenizer: PreTrainedTokenizerBase) -> str:
    """A token with its id, or an id that is no token's."""
    if isinstance(token, int):
        return f"id {token}"
    number = tokenizer.get_vocab().get(token)
    return repr(token) if number is None else f"{token!r} (id {number})"
