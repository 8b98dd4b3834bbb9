"""Processes of the host that run boxes: started with pipes, and always gone at the end."""

from __future__ import annotations

import asyncio
import contextlib
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from cycleqd_merge.errors import InfrastructureError

_END_SECONDS = 60.0


@asynccontextmanager
async def piped_process(line: Sequence[str], output: int, **options: Any) -> AsyncIterator[Process]:
    """A process with pipes, killed when the context ends.

    output: bytes of output that its caller keeps. options: of `asyncio.create_subprocess_exec`.

    Raises:
        InfrastructureError: the host cannot start it, or cannot end it.
    """
    buffer = 2 * output + 2**16
    try:
        process = await asyncio.create_subprocess_exec(
            *line, stdin=PIPE, stdout=PIPE, stderr=PIPE, limit=buffer, **options
        )
    except OSError as error:
        raise InfrastructureError(f"sandbox: cannot start a process: {error}") from error
    try:
        yield process
    finally:
        await _kill(process)


async def _kill(process: Process) -> None:
    """Kill a process and wait until it is gone, reading the rest of its output: full pipes would block its end."""
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    try:
        async with asyncio.timeout(_END_SECONDS):
            for stream in (process.stdout, process.stderr):
                while stream is not None and await stream.read(65536):
                    pass
            await process.wait()
    except TimeoutError:
        raise InfrastructureError(f"sandbox: a box (process {process.pid}) did not end") from None
