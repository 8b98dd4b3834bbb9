"""Run coroutines from synchronous code, also where an event loop is already running, as in Jupyter and Colab."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any, TypeVar

_T = TypeVar("_T")


class EventLoop:
    """Runs coroutines one after another, all on the same event loop.

    They run in the calling thread, as under `asyncio.Runner`. A thread that already runs an event loop cannot run a
    second one: there they run in another thread, and the calling thread waits for them. Either way, Ctrl-C cancels the
    coroutine, waits until it has ended and raises `KeyboardInterrupt`.
    """

    def __init__(self) -> None:
        # with a factory, the runner does not replace the thread's current event loop
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._thread = ThreadPoolExecutor(1, "event-loop")
        self._abandoned = False

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine to its end; returns its result."""
        if not _is_running():
            return self._runner.run(coroutine)
        loop = self._runner.get_loop()
        task = loop.create_task(coroutine)
        try:
            with _cancelled_by_ctrl_c(loop, task):
                return self._thread.submit(loop.run_until_complete, task).result()
        finally:
            self._abandoned = not task.done()

    def close(self) -> None:
        """Close the event loop; one that still runs an interrupted coroutine is closed once that has ended."""
        if self._abandoned:
            self._thread.submit(self._runner.close)
        elif _is_running():
            self._thread.submit(self._runner.close).result()
        else:
            self._runner.close()
        self._thread.shutdown(wait=False)


def run_coroutine(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Run one coroutine to its end, like `asyncio.run`; returns its result."""
    with closing(EventLoop()) as loop:
        return loop.run(coroutine)


def _is_running() -> bool:
    """Whether this thread is running an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


@contextmanager
def _cancelled_by_ctrl_c(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> Iterator[None]:
    """Let Ctrl-C cancel a task that another thread runs, and raise `KeyboardInterrupt` once the task has ended.

    A second Ctrl-C raises `KeyboardInterrupt` without waiting for that. Only the main thread receives signals.
    """
    previous = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(previous):
        yield
        return
    interrupted = False

    def cancel(*_: object) -> None:
        nonlocal interrupted
        if interrupted:
            raise KeyboardInterrupt
        interrupted = True
        loop.call_soon_threadsafe(task.cancel)

    signal.signal(signal.SIGINT, cancel)
    try:
        yield
    except asyncio.CancelledError:
        if interrupted:
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, previous)
