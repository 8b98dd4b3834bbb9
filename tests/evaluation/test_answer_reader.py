"""Answers read from token ids: stops, special tokens, characters of several tokens, limits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

import pytest
from transformers import PreTrainedTokenizerFast

from cycleqd_merge.errors import TaskError
from cycleqd_merge.evaluation.engines.answers import AnswerReader
from cycleqd_merge.evolution.draws import generator
from cycleqd_merge.tasks.protocol import Completion, Sampling
from tests.evaluation.walking import END, KINDS, SPECIAL, make_walking_tokenizer, random_stops, random_table, walk

tokenizer_of = lru_cache(make_walking_tokenizer)


@lru_cache
def reader_of(kind: str) -> AnswerReader:
    return AnswerReader(tokenizer_of(kind), [END], None)


def ids(kind: str, *tokens: str) -> list[int]:
    """Ids of tokens as they are in the vocabulary."""
    found = tokenizer_of(kind).convert_tokens_to_ids(list(tokens))
    assert SPECIAL.index("<unk>") not in found
    return found


def expected(
    tokenizer: PreTrainedTokenizerFast, tokens: Sequence[int], stops: Sequence[str], limit: int, ends: Sequence[int]
) -> Completion:
    """By the definition, token after token: the text after a word, with all tokens decoded again each time."""
    word = tokenizer("a", add_special_tokens=False).input_ids

    def text(count: int, special: bool) -> str:
        whole = tokenizer.decode(
            [*word, *tokens[:count]], skip_special_tokens=not special, clean_up_tokenization_spaces=False
        )
        assert whole.startswith("a")
        return str(whole[1:])

    added = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    names = "|".join(map(re.escape, SPECIAL))
    for count in range(1, min(limit, len(tokens)) + 1):
        ended = tokens[count - 1] in ends or tokenizer.convert_ids_to_tokens(tokens[count - 1]) in added & set(stops)
        cuts = [text(count, False)[: text(count, False).find(stop)] for stop in stops if stop in text(count, False)]
        for stop in stops:
            written = text(count, True)
            if stop in written and re.search(names, stop):
                before = written[: written.find(stop)]
                whole = next(part for part in range(count, -1, -1) if len(text(part, True)) <= len(before))
                inside = tokens[whole] < len(SPECIAL)
                cuts.append(text(whole, False) + ("" if inside else before[len(text(whole, True)) :]))
        if cuts:
            return Completion(min(cuts, key=len), count - ended, truncated=False)
        if ended:
            return Completion(text(count - 1, False), count - 1, truncated=False)
    count = min(limit, len(tokens))
    return Completion(text(count, False), count, truncated=True)


CASES = {
    # name: kind, tokens, stops, limit, expected text, tokens, truncated
    "no stop": ("byte-level", ["a", "b"], (), 9, "ab", 2, True),
    "end token": ("byte-level", ["a", "</s>", "b"], (), 9, "a", 1, False),
    "end token at the limit": ("byte-level", ["a", "</s>", "b"], (), 2, "a", 1, False),
    "end token behind the limit": ("byte-level", ["a", "</s>", "b"], (), 1, "a", 1, True),
    "end token at once": ("byte-level", ["</s>"], ("a",), 9, "", 0, False),
    "stop": ("byte-level", ["x", "a", "b", "c"], ("b",), 9, "xa", 3, False),
    "stop over tokens": ("byte-level", ["x", "a", "b", "c"], ("ab",), 9, "x", 3, False),
    "stop at the limit": ("byte-level", ["x", "a", "b", "c"], ("ab",), 3, "x", 3, False),
    "stop over the limit": ("byte-level", ["x", "a", "b", "c"], ("ab",), 2, "xa", 2, True),
    "stop longer than the limit": ("byte-level", ["x", "a"], ("xabcdefghij",), 2, "xa", 2, True),
    "stop at once": ("byte-level", ["x", "a"], ("x",), 9, "", 1, False),
    "stop within a token": ("byte-level", ["x", "abc", "y"], ("b",), 9, "xa", 2, False),
    "first token that completes a stop": ("byte-level", ["a", "b", "c"], ("abc", "b"), 9, "a", 2, False),
    "both complete in one token": ("byte-level", ["x", "abc"], ("b", "abc"), 9, "x", 2, False),
    "a stop begins another": ("byte-level", ["x", "a", "b", "c"], ("abc", "ab"), 9, "x", 3, False),
    "equal stops": ("byte-level", ["x", "a"], ("a", "a"), 9, "x", 2, False),
    "leading blank at the start": ("byte-level", ["Ġthe", "a"], (" the",), 9, "", 1, False),
    "leading blank at the start, Llama 2": ("byte-fallback", ["▁the", "a"], (" the",), 9, "", 1, False),
    "leading blank at the start, unigram": ("unigram", ["▁the", "a"], (" the",), 9, "", 1, False),
    "indentation is kept": ("byte-fallback", ["▁▁", "▁the"], (), 9, "   the", 2, True),
    "character of two tokens": ("byte-level", ["x", "Ã", "©", "y"], ("é",), 9, "x", 3, False),
    "half a character at the limit": ("byte-level", ["x", "Ã"], ("é",), 2, "x\ufffd", 2, True),
    "character of two bytes": ("byte-fallback", ["x", "<0xC3>", "<0xA9>", "y"], ("é",), 9, "x", 3, False),
    "bytes that break the ones before": (
        "byte-fallback",
        ["x", "<0xC3>", "<0xA9>", "<0xC3>"],
        ("é",),
        9,
        "x",
        3,
        False,
    ),
    "broken bytes before": ("byte-fallback", ["<0xC3>", "x", "<0xC3>", "<0xA9>"], ("é",), 9, "\ufffdx", 4, False),
    "special stop": ("byte-level", ["x", "<|turn|>", "y"], ("<|turn|>",), 9, "x", 1, False),
    "special stop, Llama 2": ("byte-fallback", ["x", "<|turn|>", "y"], ("<|turn|>",), 9, "x", 1, False),
    "special stop at the limit": ("unigram", ["x", "<|turn|>"], ("<|turn|>",), 2, "x", 1, False),
    "added stop that is not special": ("byte-level", ["x", "<think>", "y"], ("<think>",), 9, "x", 1, False),
    "two special tokens": ("byte-level", ["x", "<|turn|>", "<|end|>"], ("<|turn|><|end|>",), 9, "x", 3, False),
    "only one of two": ("byte-level", ["x", "<|end|>", "y"], ("<|turn|><|end|>",), 9, "xy", 3, True),
    "text and special": ("byte-level", ["x", "a", "<|turn|>", "y"], ("a<|turn|>",), 9, "x", 3, False),
    "special and text": ("byte-fallback", ["x", "<|turn|>", "▁the"], ("<|turn|> the",), 9, "x", 3, False),
    "text and end token": ("byte-level", ["x", "a", "</s>", "y"], ("a</s>",), 9, "x", 2, False),
    "special token between": ("byte-level", ["a", "<|turn|>", "b"], ("ab",), 9, "", 3, False),
    "name of a special token": ("byte-level", ["a", "<|turn|>", "b"], ("turn", "<"), 9, "ab", 3, True),
    "special token in letters": ("byte-level", ["a", *"<|turn|>"], ("<|turn|>",), 9, "a", 9, False),
    "empty stop": ("byte-level", ["a", "b"], ("", "b"), 9, "a", 2, False),
    "nothing": ("byte-level", [], ("a",), 9, "", 0, True),
    "no room": ("byte-level", ["a", "</s>"], ("a",), 0, "", 0, True),
}


@pytest.mark.parametrize("name", CASES)
def test_where_answers_end(name: str) -> None:
    kind, tokens, stops, limit, text, count, truncated = CASES[name]
    answer = reader_of(kind).read(ids(kind, *tokens), Sampling(limit, stop=stops))
    assert answer == Completion(text, count, truncated)


@pytest.mark.parametrize("kind", KINDS)
def test_random_answers_are_read_by_the_definition_and_later_tokens_change_nothing(kind: str) -> None:
    tokenizer, reader, table = tokenizer_of(kind), reader_of(kind), random_table(kind, 3)
    rng, cut = generator(7, kind), 0
    for seed in range(250):
        length = int(rng.integers(1, 20))
        chain = walk(table, int(rng.integers(len(table))), length)
        if seed % 2:
            chain = [int(token) for token in rng.integers(len(table), size=length)]
        sampling = Sampling(int(rng.integers(1, 24)), stop=random_stops(tokenizer, chain, seed))
        answer = reader.read(chain, sampling)
        assert answer == expected(tokenizer, chain, sampling.stop, sampling.max_new_tokens, [END]), (chain, sampling)
        ends = (count for count in range(len(chain)) if not reader.read(chain[:count], sampling).truncated)
        assert reader.ended(chain, sampling) == chain[: next(ends, min(len(chain), sampling.max_new_tokens))]
        if not answer.truncated:
            cut += 1
            more = [int(token) for token in rng.integers(len(table), size=9)]
            assert reader.read([*chain, *more], sampling) == answer
            first = next(count for count in range(99) if not reader.read(chain[:count], sampling).truncated)
            assert reader.read(chain[:first], sampling) == answer
            if chain[first - 1] not in reader.end_ids(sampling):  # what the transformers engine asks after each token
                assert [reader.stopped(chain[:count], sampling) for count in range(1, first)] == [None] * (first - 1)
                assert reader.stopped(chain[:first], sampling) == answer.text
    assert cut > 100


def test_a_stop_may_be_a_string_or_a_list() -> None:
    assert Sampling(stop="END").stop == ("END",)  # type: ignore[arg-type]
    assert hash(Sampling(stop=["a", "b", ""])) == hash(Sampling(stop=("a", "b")))  # type: ignore[arg-type]


@pytest.mark.parametrize(("prompt", "limit"), [(1, 12), (36, 12), (37, 11), (47, 1), (48, 0), (500, 0)])
def test_the_context_limits_answers(prompt: int, limit: int) -> None:
    reader = AnswerReader(tokenizer_of("unigram"), [END], 48)
    assert reader.fitting(Sampling(12, 0.5, ("a",), 3), prompt) == Sampling(limit, 0.5, ("a",), 3)


def test_only_the_last_tokens_of_a_long_text_are_scored() -> None:
    reader = AnswerReader(tokenizer_of("unigram"), [END], 10)
    assert reader.fitting_pair(list(range(9)), 2) == list(range(9))
    assert reader.fitting_pair(list(range(30)), 8) == list(range(21, 30))
    with pytest.raises(TaskError, match="a continuation of 9 tokens cannot be scored: the model's context has 10"):
        reader.fitting_pair(list(range(30)), 9)
