"""Requests of all tasks share batches; slow, failed or cancelled ones do not affect the answers of the others."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from cycleqd_merge.evaluation.engines.transformers_engine import TransformersEngine
from cycleqd_merge.tasks.protocol import Sampling
from tests.evaluation.conftest import BASE, Models, Reference

LONGEST_WAIT = 60


def run(coroutine: Any) -> Any:
    """Run a coroutine, with a time limit."""

    async def bounded() -> Any:
        return await asyncio.wait_for(coroutine, LONGEST_WAIT)

    return asyncio.run(bounded())


def count_batches(engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list to which the size of every generated batch is appended."""
    sizes: list[int] = []
    generate = engine.model.generate

    def counted(**options: Any) -> Any:
        sizes.append(len(options["input_ids"]))
        return generate(**options)

    monkeypatch.setattr(engine.model, "generate", counted)
    return sizes


async def talk(engine: TransformersEngine, name: str, turns: int) -> list[str]:
    """A conversation in which every question quotes the answer before it."""
    messages = [{"role": "user", "content": f"I am {name}."}]
    for _ in range(turns):
        answer = await engine.chat(messages, Sampling(6))
        messages.append({"role": "assistant", "content": answer.text})
        messages.append({"role": "user", "content": f"{name} heard {answer.text}"})
    return [message["content"] for message in messages if message["role"] == "assistant"]


def expected_talk(reference: Reference, name: str, turns: int) -> list[str]:
    said, prompt = [], f"u: I am {name}.\n"
    for _ in range(turns):
        said.append(reference.text(f"{prompt}a: ", 6))
        prompt += f"a: {said[-1]}\nu: {name} heard {said[-1]}\n"
    return said


def test_many_conversations_share_batches_and_keep_their_own_answers(
    engine: TransformersEngine, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = count_batches(engine, monkeypatch)
    names = [f"{'x' * place}{place}" for place in range(20)]

    async def all_tasks() -> list[list[str]]:
        return list(await asyncio.gather(*(talk(engine, name, 3) for name in names)))

    assert run(all_tasks()) == [expected_talk(reference, name, 3) for name in names]
    assert sizes == [20, 20, 20]


def test_batches_never_exceed_the_batch_size(
    open_engine: Callable[..., TransformersEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_engine(batch_size=8)
    sizes = count_batches(engine, monkeypatch)

    async def all_tasks() -> None:
        await asyncio.gather(*(engine.complete("x" * place, Sampling(2)) for place in range(1, 21)))

    run(all_tasks())
    assert sizes == [8, 8, 4]


def test_follow_up_requests_join_the_next_batch(
    open_engine: Callable[..., TransformersEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_engine(batch_size=4)
    sizes = count_batches(engine, monkeypatch)

    async def all_tasks() -> None:
        await asyncio.gather(*(talk(engine, f"{place}", 2) for place in range(6)))

    run(all_tasks())
    assert sizes == [4, 4, 2, 2]  # the first four, with longer prompts by now, come before the other two


def test_tasks_with_equal_sampling_share_batches(engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = count_batches(engine, monkeypatch)

    async def all_tasks() -> None:
        plain = (engine.complete(f"task one {place}", Sampling(4)) for place in range(5))
        chats = (engine.chat([{"role": "user", "content": f"two {place}"}], Sampling(4)) for place in range(5))
        others = (engine.complete(f"three {place}", Sampling(9)) for place in range(5))
        await asyncio.gather(*plain, *chats, *others)

    run(all_tasks())
    assert sorted(sizes) == [5, 10]


def test_a_slow_environment_does_not_hold_up_others(engine: TransformersEngine, reference: Reference) -> None:
    done: list[str] = []

    async def slow() -> None:
        await engine.complete("slow", Sampling(2))
        await asyncio.sleep(0.5)
        await engine.complete("slow again", Sampling(2))
        done.append("slow")

    async def fast() -> None:
        await talk(engine, "fast", 3)
        done.append("fast")

    async def all_tasks() -> None:
        await asyncio.gather(slow(), fast(), fast())

    run(all_tasks())
    assert done == ["fast", "fast", "slow"]


def test_environments_that_occupy_every_thread_do_not_block_the_model(engine: TransformersEngine) -> None:
    over = threading.Event()

    async def environment() -> bool:
        return await asyncio.to_thread(over.wait, LONGEST_WAIT)

    async def all_tasks() -> list[bool]:
        waiting = [asyncio.create_task(environment()) for _ in range(100)]
        await asyncio.sleep(0.05)
        try:
            await asyncio.wait_for(engine.complete("a", Sampling(2)), 20)
        finally:
            over.set()
        return list(await asyncio.gather(*waiting))

    assert all(run(all_tasks()))


@pytest.fixture
def failing_engine(models: Models, monkeypatch: pytest.MonkeyPatch) -> TransformersEngine:
    """An engine whose model fails on long prompts."""
    engine = models.engine(batch_size=2)
    generate = engine.model.generate

    def failing(**options: Any) -> Any:
        if options["input_ids"].shape[1] > 128:
            raise IndexError("index out of range in self")
        return generate(**options)

    monkeypatch.setattr(engine.model, "generate", failing)
    return engine


def test_a_failing_batch_fails_all_waiting_requests_and_later_ones_work(
    failing_engine: TransformersEngine,
) -> None:
    async def all_tasks() -> list[Any]:
        prompts = ["x" * 200, *(f"short {place}" for place in range(5))]
        asked = (failing_engine.complete(prompt, Sampling(2)) for prompt in prompts)
        return list(await asyncio.gather(*asked, failing_engine.logprobs("a", "b"), return_exceptions=True))

    async def later() -> str:
        return (await failing_engine.complete("short 0", Sampling(2))).text

    before = run(later())
    answers = run(all_tasks())
    assert {type(answer) for answer in answers} == {IndexError}
    assert run(later()) == before
    failing_engine.close()


def test_an_event_loop_works_after_a_failure_in_it(failing_engine: TransformersEngine) -> None:
    async def both() -> str:
        with pytest.raises(IndexError):
            await failing_engine.complete("x" * 200, Sampling(2))
        return (await failing_engine.complete("short", Sampling(2))).text

    assert run(both())
    failing_engine.close()


def test_cancelled_requests_are_not_computed(
    open_engine: Callable[..., TransformersEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_engine(batch_size=1)
    sizes = count_batches(engine, monkeypatch)

    async def leave() -> None:
        asking = [asyncio.create_task(engine.complete(f"left {place}", Sampling(4))) for place in range(30)]
        await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        assert (await engine.complete("stayed", Sampling(4))).tokens == 4

    run(leave())
    assert len(sizes) <= 4


def test_a_load_waits_for_a_running_batch(models: Models, reference: Reference) -> None:
    """A failed evaluation leaves its batch running, which the next candidate's weights must not affect."""
    engine = models.engine()
    begun, over = threading.Event(), []
    generate = engine.model.generate

    def slow(**options: Any) -> Any:
        begun.set()
        time.sleep(0.3)
        over.append("batch")
        return generate(**options)

    engine.model.generate = slow

    async def leave() -> None:
        asking = asyncio.create_task(engine.complete("a", Sampling(2)))
        await asyncio.to_thread(begun.wait, LONGEST_WAIT)
        asking.cancel()

    run(leave())
    engine.load(BASE)
    assert over == ["batch"]
    engine.model.generate = generate
    assert run(engine.complete("a", Sampling(5))).text == reference.text("a", 5)
    engine.close()
