"""Ending a run by a signal."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from cycleqd_merge.errors import Interrupted


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM end a run as Ctrl-C does; both raise `Interrupted`.

    A running event loop replaces Python's own handler with one that first cancels its tasks; any other handler would
    raise in the middle of one. So Python's own is installed here, even in a background job, which ignores Ctrl-C.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ends = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: lambda *_: signal.raise_signal(signal.SIGINT)}
    previous = {number: signal.signal(number, end) for number, end in ends.items()}
    try:
        yield
    except _interruptions():
        raise Interrupted("interrupted") from None
    finally:
        for number, end in previous.items():
            signal.signal(number, end)


def _interruptions() -> tuple[type[BaseException], ...]:
    """What a signal raises: `CancelledError` if it came just before an event loop started."""
    from asyncio import CancelledError  # only after an error: it would delay the help of the command line

    return KeyboardInterrupt, CancelledError
