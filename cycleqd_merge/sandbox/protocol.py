"""The interface of sandboxes: a provider runs commands in boxes, each for one program or one conversation.

A box has no network, sees no process, variable or file of the host (except /usr and this environment's Python, both
read-only), and leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from asyncio.subprocess import Process

MIB = 2**20


@dataclass(frozen=True, slots=True)
class Limits:
    """Resources that a box may use.

    memory: bytes, per process; if control groups are writable, also for all processes together. disk: bytes of written
    files, which are kept in memory. output: bytes of a command's output that are kept. processes: number of processes.
    cpus: CPU cores, if control groups are writable. seconds: wall-clock time per command.
    """

    memory: int = 512 * MIB
    disk: int = 64 * MIB
    output: int = MIB
    processes: int = 64
    cpus: float = 1.0
    seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class ProcessResult:
    """How a command ended.

    code: exit status, negative for a signal, None if the time limit was exceeded. output: standard output; in a `Box`,
    standard error too. truncated: there was more output than was kept.
    """

    code: int | None
    output: bytes
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class RootFs:
    """The files that a box sees.

    name: of a root file system made by `sandbox build` (with Docker: an image), whose changes are discarded with the
    box; None for the host's /usr, and this environment's Python and numpy, read-only.
    """

    name: str | None = None


class BoxLost(Exception):
    """A box stopped responding: something that ran in it broke it."""


class Provider(Protocol):
    """A way to create boxes: bubblewrap or Docker."""

    def probe(self, root: RootFs) -> str:
        """Try a box; returns a short description of it.

        Raises:
            TaskError: it does not work; the message says why and names the command that fixes it.
        """
        ...

    def python(self) -> list[str]:
        """The beginning of a command that runs Python in a box without a root file system.

        Boxes of all providers have the release of Python and the version of numpy that this process has, and no other
        package.
        """
        ...

    def start(self, command: Sequence[str], root: RootFs, limits: Limits) -> AbstractAsyncContextManager[Process]:
        """Start a command in a new box; gives its process, with pipes, which lives until the context ends.

        In a named root file system, the command runs as the box's root and may become other users; else it runs as one
        unprivileged user. The caller enforces `limits.seconds`.

        Raises:
            InfrastructureError: the host cannot start it.
        """
        ...
