"""What a sandbox offers, whoever provides it: a command in a box of its own, or a box that lives as long as a sample.

A box has no network, sees no file, process or variable of the host, and changes nothing that outlives it.
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
    """What a box may use. `memory`, `disk`, `output` in bytes; `seconds` of wall-clock time per command.

    memory: of all processes together where cgroups can be written, of each process anyway. disk: everything written,
    kept in memory. output: bytes of one command that are kept.
    """

    memory: int = 512 * MIB
    disk: int = 64 * MIB
    output: int = MIB
    processes: int = 64
    cpus: float = 1.0
    seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class ProcessResult:
    """How a command ended. code: its exit status, negative for a signal, None if its time was up.

    output: what it wrote to its standard output; in a `Box`, to standard error too. cut: it wrote more than was kept.
    """

    code: int | None
    output: bytes
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Root:
    """The files of a box: a name of a root file system that `sandbox build` made (for Docker: an image), thrown away
    with all changes; or, without a name, the host's /usr alone, read-only."""

    name: str | None = None


class BoxLost(Exception):
    """A box stopped answering: whatever ran in it brought it down."""


class Provider(Protocol):
    """Where boxes come from."""

    def probe(self, root: Root) -> str:
        """Try a box, and say in a few words what provides it.

        Raises:
            UserError: it does not work; the message says why and names the command that mends it.
        """
        ...

    def started(self, command: Sequence[str], root: Root, limits: Limits) -> AbstractAsyncContextManager[Process]:
        """A command's process, with pipes, in a box that dies with the context. Its time is the caller's to limit.

        With a named root the command is the user root there and may become others; else it is nobody.

        Raises:
            InfrastructureError: the host cannot start it.
        """
        ...
