"""Where an answer ends, and its text: read from its token ids alone, by the same rules for every engine."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from transformers import PreTrainedTokenizerBase

from cycleqd_merge.errors import TaskError
from cycleqd_merge.merging.end_tokens import special_and_added
from cycleqd_merge.tasks.protocol import Completion, Sampling

log = logging.getLogger(__name__)

_PARTIAL = "\N{REPLACEMENT CHARACTER}"  # what tokenizers write for bytes that are not a whole character
_CHARACTER = 4  # tokens of a character at most: its bytes in UTF-8


@dataclass(frozen=True)
class _Stops:
    """The stop strings of a request.

    tokens: ids of those that are a special or added token. written: those that contain a special token, which the
    text of an answer lacks. window: the number of last tokens in which a stop is searched.
    """

    all: tuple[str, ...]
    tokens: frozenset[int]
    written: tuple[str, ...]
    window: int


class AnswerReader:
    """Reads the answers of models with one tokenizer.

    An answer ends before the first end token, and before a stop string as soon as a token completes one; if that token
    completes several, the one that begins first counts. Stop strings match the text of new tokens only, without special
    tokens; those that contain a special token match the text with special tokens. What ends an answer depends on the
    tokens up to that place alone: engines may generate more, and only need to notice the end to save time.

    ends: the ids of the end tokens. context: the limit in tokens, for prompt and answer together; None if there is
    none.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, ends: Iterable[int], context: int | None) -> None:
        self.context = context
        self._tokenizer, self._ends = tokenizer, frozenset(ends)
        self._added = special_and_added(tokenizer)
        self._special = {token: number for token, number in self._added.items() if not self._decode([number], False)}
        # an answer is read after this text, because tokenizers drop the blank before the first word of a text
        before = (tokenizer(text, add_special_tokens=False).input_ids for text in "a1.")
        self._before: list[int] = next((list(ids) for ids in before if self._decode(ids, False).strip()), [])
        self._length = {special: len(self._decode(self._before, special)) for special in (False, True)}
        self._stops = lru_cache(maxsize=256)(self._find_stops)
        self._warned = False

    def fitting(self, sampling: Sampling, prompt: int) -> Sampling:
        """`sampling` with a token limit that the context has room for after a prompt of `prompt` tokens: 0 if none."""
        if self.context is None or prompt + sampling.max_new_tokens <= self.context:
            return sampling
        room = max(self.context - prompt, 0)
        if not room and not self._warned:
            self._warned = True
            log.warning(
                "a prompt of %d tokens leaves no room in the model's context of %d: its answer is empty and counts as "
                "truncated, as those of all such prompts",
                prompt,
                self.context,
            )
        return replace(sampling, max_new_tokens=room)

    def fitting_pair(self, tokens: list[int], scored: int) -> list[int]:
        """The last tokens of a prompt and its continuation for which the context has room, as lm-evaluation-harness.

        One token less than the context, because vLLM generates one.

        Raises:
            TaskError: not even the continuation, `scored` tokens, fits after one token.
        """
        if self.context is None or len(tokens) < self.context:
            return tokens
        if scored >= self.context - 1:
            raise TaskError(
                f"a continuation of {scored} tokens cannot be scored: the model's context has {self.context}; "
                "shorten the choices or targets"
            )
        return tokens[-(self.context - 1) :]

    def end_ids(self, sampling: Sampling) -> list[int]:
        """The tokens that end an answer: end tokens, and stop strings that are one special or added token."""
        return sorted(self._ends | self._stops(sampling.stop).tokens)

    def end_of(self, preferred: str | None) -> int | None:
        """The token that ends an answer: the preferred one, else the tokenizer's own, else any; None without any."""
        known = (self._added.get(preferred), self._tokenizer.eos_token_id, *sorted(self._ends))
        return next((token for token in known if token in self._ends), None)

    def writes_special(self, sampling: Sampling) -> bool:
        """Whether a stop string contains special tokens next to other text."""
        stops = self._stops(sampling.stop)
        return any(stop not in self._added for stop in stops.written)

    def read(self, tokens: Sequence[int], sampling: Sampling) -> Completion:
        """The answer that these generated tokens are or begin; it is truncated if nothing in them ends it."""
        return self._read(tokens, sampling)[0]

    def ended(self, tokens: Sequence[int], sampling: Sampling) -> list[int]:
        """These generated tokens up to the end of the answer: with its end token, or the tokens of its stop string."""
        return list(tokens[: self._read(tokens, sampling)[1]])

    def _read(self, tokens: Sequence[int], sampling: Sampling) -> tuple[Completion, int]:
        """The answer, and the number of tokens up to its end, which is included."""
        tokens = list(tokens[: sampling.max_new_tokens])
        ends = self._ends | self._stops(sampling.stop).tokens
        end = next((place for place, token in enumerate(tokens) if token in ends), None)
        before = tokens[:end]
        tokens = tokens if end is None else tokens[: end + 1]
        if sampling.stop:
            for count in self._candidates(tokens, sampling):
                text = self.stopped(tokens[:count], sampling)
                if text is not None:
                    return Completion(text, min(count, len(before)), truncated=False), count
        return Completion(self._text(before), len(before), truncated=end is None), len(tokens)

    def stopped(self, tokens: list[int], sampling: Sampling) -> str | None:
        """The text before a stop string that the last of these tokens completes; None if it completes none."""
        stops = self._stops(sampling.stop)
        found = [
            text
            for strings, special in ((stops.all, False), (stops.written, True))
            if strings
            and _first(self._tail(tokens, stops.window, special), strings) is not None
            and (text := self._cut(tokens, strings, special)) is not None
        ]
        return min(found, key=len, default=None)

    def _candidates(self, tokens: list[int], sampling: Sampling) -> range:
        """The numbers of tokens to search for the first that completes a stop string."""
        stops, counts = self._stops(sampling.stop), range(1, len(tokens) + 1)

        def contains(count: int) -> bool:
            text, written = (
                self._text(tokens[:count]),
                self._text(tokens[:count], special=True) if stops.written else "",
            )
            return _first(text, stops.all) is not None or _first(written, stops.written) is not None

        if _PARTIAL in self._text(tokens):
            return counts  # bytes that are no character can make a tokenizer replace whole characters before them, too
        if not contains(len(tokens)):
            return counts[:0]
        return counts[bisect_left(counts, True, key=contains) :]

    def _cut(self, tokens: list[int], strings: Sequence[str], special: bool) -> str | None:
        """The text before the first of these strings, without special tokens; None if there is none."""
        text = self._text(tokens, special)
        place = _first(text, strings)
        if place is None or not special:
            return None if place is None else text[:place]
        count = len(tokens)
        while len(head := self._text(tokens[:count], special=True)) > place:
            count -= 1
        begun = "" if tokens[count] in self._special.values() else text[len(head) : place]
        return self._text(tokens[:count]) + begun

    def _tail(self, tokens: list[int], window: int, special: bool) -> str:
        """The text of at least the last `window` tokens, from a place where a character begins."""
        start = max(len(tokens) - window, 0)
        text = self._text(tokens[start:], special)
        while start > 0 and text.startswith(_PARTIAL):
            start = max(start - window, 0)
            text = self._text(tokens[start:], special)
        return text

    def _text(self, tokens: Sequence[int], special: bool = False) -> str:
        """The text of tokens that follow others; special: with special tokens."""
        return self._decode([*self._before, *tokens], special)[self._length[special] :]

    def _decode(self, tokens: Sequence[int], special: bool) -> str:
        return str(
            self._tokenizer.decode(list(tokens), skip_special_tokens=not special, clean_up_tokenization_spaces=False)
        )

    def _find_stops(self, strings: tuple[str, ...]) -> _Stops:
        written = tuple(stop for stop in strings if any(token in stop for token in self._special))
        longest = max(map(len, strings), default=0)
        tokens = frozenset(self._added[stop] for stop in strings if stop in self._added)
        return _Stops(strings, tokens, written, _CHARACTER * (longest + 2))


def _first(text: str, strings: Sequence[str]) -> int | None:
    """The first place of any of these strings in a text."""
    return min((place for string in strings if (place := text.find(string)) >= 0), default=None)
