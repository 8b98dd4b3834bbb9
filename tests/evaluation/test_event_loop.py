"""Evaluations in a thread that already runs an event loop, as in Jupyter: the same results, and Ctrl-C ends them."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cycleqd_merge import Observer, load_recipe
from cycleqd_merge.errors import Interrupted
from cycleqd_merge.evaluation.worker import Worker
from cycleqd_merge.event_loop import EventLoop, run_coroutine
from cycleqd_merge.journal.log import of_kind, read_events
from cycleqd_merge.run.interruption import terminable
from cycleqd_merge.session.search import search
from tests.evaluation.conftest import BASE, Reference, genome_of, use

RECIPES = Path(__file__).parents[2] / "recipes"


def in_a_running_loop(function: Callable[[], Any]) -> Any:
    """The result of `function`, called as in a notebook's cell: while this thread runs an event loop."""

    async def cell() -> Any:
        return function()

    return asyncio.run(cell())


async def thread_of_a_coroutine() -> int:
    await asyncio.sleep(0)
    return threading.get_ident()


def test_a_coroutine_runs_in_the_calling_thread_where_that_is_possible() -> None:
    assert run_coroutine(thread_of_a_coroutine()) == threading.get_ident()
    assert in_a_running_loop(lambda: run_coroutine(thread_of_a_coroutine())) != threading.get_ident()


def test_all_coroutines_run_on_one_loop() -> None:
    async def current() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    with closing(EventLoop()) as loop:
        first = loop.run(current())
        assert in_a_running_loop(lambda: loop.run(current())) is first
        assert loop.run(current()) is first
    assert first.is_closed()


def test_the_calling_thread_s_current_event_loop_stays_the_same() -> None:
    async def cell() -> bool:
        before = asyncio.get_event_loop()
        with closing(EventLoop()) as loop:
            loop.run(asyncio.sleep(0))
        return asyncio.get_event_loop() is before

    assert asyncio.run(cell())


@pytest.mark.parametrize("error", [ValueError("no such thing"), KeyboardInterrupt(), SystemExit(3)])
def test_errors_pass_through(error: BaseException) -> None:
    async def fails() -> None:
        raise error

    with pytest.raises(type(error)):
        in_a_running_loop(lambda: run_coroutine(fails()))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_cancels_the_coroutine_and_waits_for_its_end(number: signal.Signals) -> None:
    ended: list[str] = []

    async def slow() -> None:
        try:
            os.kill(os.getpid(), number)
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            time.sleep(0.1)
            ended.append("cancelled")
            raise

    def interrupted() -> None:
        with closing(EventLoop()) as loop, terminable():
            loop.run(slow())

    with pytest.raises(Interrupted):
        in_a_running_loop(interrupted)
    assert ended == ["cancelled"]


def test_a_second_ctrl_c_does_not_wait_for_the_coroutine() -> None:
    started, may_end = threading.Event(), threading.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def stuck() -> None:
        loops.append(asyncio.get_running_loop())
        started.set()
        may_end.wait(60)

    def press_twice() -> None:
        started.wait(60)
        for _ in range(2):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            time.sleep(0.2)  # two signals at once would be one

    keys = threading.Thread(target=press_twice)
    keys.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            in_a_running_loop(lambda: run_coroutine(stuck()))
        assert loops[0].is_running()
    finally:
        may_end.set()
        keys.join()
    deadline = time.monotonic() + 10
    while not loops[0].is_closed() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert loops[0].is_closed()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_worker_works_after_a_signal(
    open_worker: Callable[..., Worker], reference: Reference, number: signal.Signals
) -> None:
    worker = open_worker(use("ended", "Signals", number=number))

    def interrupted() -> None:
        with terminable():
            worker.evaluate(genome_of(1, 0))

    with pytest.raises(Interrupted):
        in_a_running_loop(interrupted)
    found = in_a_running_loop(lambda: worker.evaluate(BASE)).results["ended"]
    assert [outcome.output for outcome in found.outcomes] == [reference.text(sample, 40) for sample in found.samples]
    assert worker.evaluate(BASE).results["ended"] == found


def test_a_run_gives_the_same_scores_in_a_notebook(tmp_path: Path) -> None:
    def results(name: str) -> list[Any]:
        shorter = {"evolution.generations": 4, "evolution.preset": "paper", "evolution.in_flight": 2}
        settings = {**shorter, "confirm.share": 0, "finish": "{}", "output": tmp_path / name}
        recipe = load_recipe(RECIPES / "quickstart.yaml", [f"{key}={value}" for key, value in settings.items()])
        search(recipe, Observer())
        return [{**event, "seconds": None} for event in of_kind(read_events(tmp_path / name), "result")]

    plain = results("plain")
    assert len(plain) == 3 + 4
    assert all(event["scores"] is not None for event in plain)
    assert in_a_running_loop(lambda: results("notebook")) == plain
