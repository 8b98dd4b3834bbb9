"""Ending a run by a signal."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from cycleqd_merge.errors import Interrupted

_NOTICES = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
"""Further signals that end a run, unless somebody ignores or handles them: a dropped connection, as `nohup` ignores it,
and the notices of batch systems before they end a job, or of a limit of CPU time."""
_SAME_SECONDS = 1.0
"""Signals in quick succession count as one: service managers send two, and terminals one to each process."""
_last = float("-inf")
"""When such a signal was last passed on, by `time.monotonic()`."""


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM, a hang-up and the notices of batch systems end a run as Ctrl-C does; all raise `Interrupted`.

    A running event loop replaces Python's own handler with one that first cancels its tasks; any other handler would
    raise in the middle of one. So Python's own is installed here, even in a background job, which ignores Ctrl-C.
    A second signal also ends what the first one led to.
    """
    global _last
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _last = float("-inf")
    notices = [number for number in _NOTICES if signal.getsignal(number) is signal.SIG_DFL]
    ends = {signal.SIGINT: signal.default_int_handler, **dict.fromkeys([signal.SIGTERM, *notices], _end)}
    previous = {number: signal.signal(number, handler) for number, handler in ends.items()}
    try:
        yield
    except _interruptions():
        raise Interrupted("interrupted") from None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> None:
    """Pass a signal on as Ctrl-C, unless it follows another at once."""
    global _last
    now = time.monotonic()
    if now - _last > _SAME_SECONDS:
        _last = now
        signal.raise_signal(signal.SIGINT)


def _interruptions() -> tuple[type[BaseException], ...]:
    """What a signal raises: `CancelledError` if it came just before an event loop started."""
    from asyncio import CancelledError  # only after an error: it would delay the help of the command line

    return KeyboardInterrupt, CancelledError
