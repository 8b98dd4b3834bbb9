"""What an engine reads and answers while a task scores a sample, as token ids: a fit learns from it.

Engines call `requested` for every request. It records only inside `recording`, and only text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Turn:
    """A request and its answer, as the engine saw them.

    prompt: as text. continuation: the text whose likelihood was asked for; None if the model generated an answer.
    tokens: ids of prompt and answer. answered: how many at the end are the answer's, with the end token or stop string
    that ended it, or the continuation's.
    """

    prompt: str
    continuation: str | None
    tokens: tuple[int, ...]
    answered: int


@dataclass(slots=True, eq=False)
class Attempt:
    """The requests of one attempt at a sample. score: its own, from 0 to 1; None if it has the sample's.

    skipped: the number of requests with images or sound, which are not recorded.
    """

    score: float | None = None
    skipped: int = 0
    slots: list[Turn | None] = field(default_factory=list)

    @property
    def turns(self) -> list[Turn]:
        """The answered requests, in the order in which they were made."""
        return [turn for turn in self.slots if turn is not None]


_current: ContextVar[tuple[list[Attempt], Attempt] | None] = ContextVar("attempt", default=None)


@contextmanager
def recording() -> Iterator[list[Attempt]]:
    """Record all requests made inside; the first attempt has those that are made outside of `separate_attempt`."""
    attempts = [Attempt()]
    token = _current.set((attempts, attempts[0]))
    try:
        yield attempts
    finally:
        _current.reset(token)


@contextmanager
def separate_attempt() -> Iterator[Attempt]:
    """An attempt of its own, such as one of several conversations about a sample; dropped if it ends by an error."""
    current, attempt = _current.get(), Attempt()
    if current is None:
        yield attempt
        return
    attempts = current[0]
    attempts.append(attempt)
    token = _current.set((attempts, attempt))
    try:
        yield attempt
    except BaseException:
        attempts.remove(attempt)
        raise
    finally:
        _current.reset(token)


def requested() -> Callable[[Turn], None] | None:
    """Note that a request is made; returns what receives its turn, or None if nothing is recorded."""
    current = _current.get()
    if current is None:
        return None
    slots = current[1].slots
    place = len(slots)
    slots.append(None)  # requests that are made at once are answered in any order

    def answered(turn: Turn) -> None:
        slots[place] = turn

    return answered


@contextmanager
def recording_text_only(messages: Sequence[Mapping[str, Any]]) -> Iterator[None]:
    """Record no request made inside if the chat turns have other parts than text."""
    current = _current.get()
    if current is None or not any(_has_media(message) for message in messages):
        yield
        return
    current[1].skipped += 1
    token = _current.set(None)
    try:
        yield
    finally:
        _current.reset(token)


def _has_media(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    if content is None or isinstance(content, str):
        return False
    return any(isinstance(part, Mapping) and part.get("type", "text") != "text" for part in content)
