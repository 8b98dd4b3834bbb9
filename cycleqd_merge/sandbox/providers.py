"""Choosing where boxes come from: bubblewrap where it works, else Docker, else nothing runs at all."""

from __future__ import annotations

import asyncio
import functools
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from cycleqd_merge.errors import UserError
from cycleqd_merge.sandbox.bubblewrap import Bubblewrap
from cycleqd_merge.sandbox.docker import Docker
from cycleqd_merge.sandbox.protocol import Provider, Root


@dataclass(frozen=True)
class Sandbox:
    """A provider that works, and what it says of itself."""

    provider: Provider
    description: str


@functools.cache
def sandbox_for(root: Root) -> Sandbox:
    """The first provider that can make boxes with this root; tried once per process.

    Raises:
        UserError: none can; the message says what is wrong and which command mends it.
    """
    bubblewrap = Bubblewrap()
    try:
        return Sandbox(bubblewrap, bubblewrap.probe(root))
    except UserError as error:
        docker = Docker()
        if docker.answers():
            return Sandbox(docker, docker.probe(root))
        raise error


class Slots:
    """At most so many boxes at once, in whichever event loop asks."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._of: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()

    def taken(self) -> asyncio.Semaphore:
        """An asynchronous context that holds one slot."""
        return self._of.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(self._count))
