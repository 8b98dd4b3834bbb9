"""A limit on the number of boxes at once."""

from __future__ import annotations

import asyncio
from weakref import WeakKeyDictionary


class Slots:
    """At most `count` boxes at once, in each event loop."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._semaphores: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()

    def slot(self) -> asyncio.Semaphore:
        """An asynchronous context that waits for a slot and holds it."""
        return self._semaphores.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(self._count))
