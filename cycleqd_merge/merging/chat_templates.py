"""Chat turns as text: the same for engines, end tokens and the checks before a run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from threading import Lock
from typing import Any

from cachetools import LRUCache, cached
from transformers import PreTrainedTokenizerBase

from cycleqd_merge.bounded import Bounds, LimitExceeded, call
from cycleqd_merge.errors import TaskError, first_line
from cycleqd_merge.merging.chat_rendering import rendered, variables_of
from cycleqd_merge.tasks.protocol import Message

_CACHED = 2**26  # characters of rendered prompts that are kept
BOUNDS = Bounds(seconds=2.0)
_BEGUN = "~begun~"  # stands for an assistant turn without text, which templates strip or drop
_PROBE = "~turn~"


class Rendered(str):
    """Text rendered by a chat template, which includes special tokens."""

    __slots__ = ()


class TemplateLimit(TaskError):
    """A chat template exceeds its limit of time or memory."""


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    template: str | None = None,
    variables: Mapping[str, Any] | None = None,
) -> Rendered:
    """Chat turns as one prompt, by `template` or the tokenizer's own; if the assistant's turn is last, it is continued.

    The text is what the tokenizer's `apply_chat_template` returns, except that an assistant's turn to be continued
    keeps the white space at its end, which many templates strip. A turn's text is given as a content part to templates
    that write nothing else, and text parts are joined by line breaks for those that write text alone, as vLLM does.
    variables: values that the template reads, such as `enable_thinking`; JSON values.

    Raises:
        TemplateLimit: the template exceeds its limit of time or memory.
        TaskError: there is no chat template, it rejects these turns, or it does not end with the turn to be continued.
    """
    if template is None and not has_template(tokenizer):
        raise TaskError("the model has no chat template; give the task a `chat_template` or a plain prompt")
    if not messages:
        raise TaskError("a chat prompt requires at least one turn")
    turns = [dict(message) for message in messages]
    begun = _text_of(turns[-1]) if turns[-1]["role"] == "assistant" else None
    if begun is not None:
        turns[-1] = _with_text(turns[-1], begun.rstrip() or _BEGUN)
    form = _form(tokenizer, template)
    turns = [_in_form(turn, form) for turn in turns]
    options = {"add_generation_prompt": begun is None, "continue_final_message": begun is not None}
    text = _applied(tokenizer, turns, template, options, variables or {})
    if begun is None:
        return Rendered(text)
    stem = begun.rstrip() or _BEGUN
    if not text.endswith(stem.lstrip()):
        raise TaskError("the chat template does not end with the assistant turn that the answer is to continue")
    return Rendered(text.removesuffix(_BEGUN) + begun[len(begun.rstrip()) :])


def render_closed(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str:
    """A finished conversation, as the tokenizer's template writes it: no answer is to follow.

    Raises:
        TaskError: as `render`.
    """
    return _applied(tokenizer, [dict(message) for message in messages], None, {}, {})


def has_template(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer can write chat turns by itself."""
    return _own_way(tokenizer) or bool(tokenizer.chat_template)


def template_variables(tokenizer: PreTrainedTokenizerBase, template: str | None = None) -> frozenset[str]:
    """The variables that a chat template reads; none if it cannot be read."""
    if _own_way(tokenizer):
        return frozenset()
    return _variables(_source(tokenizer, template))


def template_source(tokenizer: PreTrainedTokenizerBase, template: str | None = None) -> str:
    """The text of a chat template; empty if the tokenizer renders chats without one.

    Raises:
        TaskError: the tokenizer has several, and none is named `default`.
    """
    return "" if _own_way(tokenizer) else _source(tokenizer, template)


@lru_cache
def _variables(source: str) -> frozenset[str]:
    try:
        return frozenset(call(BOUNDS, variables_of, source))
    except LimitExceeded:
        return frozenset()


def _own_way(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether its class renders chats without a Jinja template, as mistral-common's does."""
    return type(tokenizer).apply_chat_template is not PreTrainedTokenizerBase.apply_chat_template


def _applied(
    tokenizer: PreTrainedTokenizerBase,
    turns: list[dict[str, Any]],
    template: str | None,
    options: Mapping[str, bool],
    variables: Mapping[str, Any],
) -> str:
    """What the tokenizer's `apply_chat_template` returns; a template runs in a child process, within limits."""
    if _own_way(tokenizer):
        own: Any = tokenizer
        stated = {} if template is None else {"chat_template": template}
        try:
            text = own.apply_chat_template(turns, tokenize=False, **options, **stated, **variables)
        except Exception as error:  # the tokenizer's own code may raise anything
            raise TaskError(f"the tokenizer rejects these turns: {first_line(error)}") from error
        return str(text)
    special = {**tokenizer.special_tokens_map, **variables}
    try:
        arguments = json.dumps([_plain(turns), options, special])
    except TypeError as error:
        raise TaskError(f"the variables of a chat template must be JSON values: {error}") from error
    return _rendered(_source(tokenizer, template), arguments)


@cached(LRUCache(_CACHED, getsizeof=len), lock=Lock())  # every child gets the same prompts
def _rendered(source: str, arguments: str) -> str:
    """The prompt that a template makes of turns, options and variables, given as JSON."""
    try:
        accepted, text = call(BOUNDS, rendered, source, *json.loads(arguments))
    except LimitExceeded as error:
        raise TemplateLimit(f"the chat template {error}") from error
    if not accepted:
        raise TaskError(f"the chat template {text}")
    return text


def _source(tokenizer: PreTrainedTokenizerBase, template: str | None) -> str:
    """The text of a template: `template`, one of the tokenizer's own by this name, or its default one.

    Raises:
        TaskError: the tokenizer has several, and none is named `default`.
    """
    try:
        return str(tokenizer.get_chat_template(template))
    except ValueError:
        names = ", ".join(sorted(tokenizer.chat_template or ()))
        raise TaskError(
            f"the model has several chat templates ({names}) and no default; name one as the task's `chat_template`"
        ) from None


def _plain(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Turns as templates see them: without absent values; images and other objects as their type's name."""
    kept = [{key: value for key, value in turn.items() if value is not None} for turn in turns]
    if all(type(value) is str for turn in kept for value in turn.values()):
        return kept
    plain: list[dict[str, Any]] = json.loads(json.dumps(kept, default=lambda value: f"<{type(value).__name__}>"))
    return plain


def _form(tokenizer: PreTrainedTokenizerBase, template: str | None) -> str | None:
    """The only form of a turn's content that a template writes: `text` or `parts`; None if both, or if unknown."""
    return (
        None if _own_way(tokenizer) else _only_form(_source(tokenizer, template), _frozen(tokenizer.special_tokens_map))
    )


@lru_cache
def _only_form(source: str, special: tuple[tuple[str, Any], ...]) -> str | None:
    contents = {"text": _PROBE, "parts": [{"type": "text", "text": _PROBE}]}
    written = []
    for form, content in contents.items():
        turns = [{"role": "user", "content": content}]
        try:
            accepted, text = call(BOUNDS, rendered, source, turns, {}, dict(special))
        except LimitExceeded:
            return None
        if accepted and _PROBE in text and f"'{_PROBE}'" not in text:  # not the list as Python writes it
            written.append(form)
    return written[0] if len(written) == 1 else None


def _in_form(turn: dict[str, Any], form: str | None) -> dict[str, Any]:
    """A turn with its content as text or as parts; one that has other parts than text stays as it is."""
    content = turn.get("content")
    if form == "parts" and isinstance(content, str):
        return {**turn, "content": [{"type": "text", "text": content}]}
    if form == "text" and isinstance(content, list) and all(set(part) == {"type", "text"} for part in content):
        return {**turn, "content": "\n".join(str(part["text"]) for part in content)}
    return turn


def _frozen(special: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple((name, str(token)) for name, token in special.items())


def _text_of(turn: Mapping[str, Any]) -> str:
    """The text of a turn, or of its last content part that has one."""
    content = turn.get("content")
    if isinstance(content, Sequence) and not isinstance(content, str):
        return next((str(part["text"]) for part in reversed(content) if "text" in part), "")
    return "" if content is None else str(content)


def _with_text(turn: Mapping[str, Any], text: str) -> dict[str, Any]:
    """The turn with another text in the place of `_text_of`."""
    content = turn.get("content")
    if not isinstance(content, Sequence) or isinstance(content, str):
        return {**turn, "content": text}
    last = max((place for place, part in enumerate(content) if "text" in part), default=len(content))
    return {**turn, "content": [*content[:last], {"type": "text", "text": text}, *content[last + 1 :]]}
