"""Processes of the host that run boxes: started with pipes, and always gone at the end, with all that they started."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from cycleqd_merge.errors import InfrastructureError

START_SECONDS = 60.0  # enough on a busy machine
_END_SECONDS = 60.0


@asynccontextmanager
async def piped_process(line: Sequence[str], output: int, **options: Any) -> AsyncIterator[Process]:
    """A process with pipes, killed when the context ends.

    output: bytes of output that its caller keeps. options: of `asyncio.create_subprocess_exec`.

    Raises:
        InfrastructureError: the host cannot start it, or cannot end it.
    """
    process = await _start(line, output, options)
    try:
        yield process
    finally:
        await _end(process, None)


@asynccontextmanager
async def bubblewrap_process(
    line: Callable[[Sequence[str]], Sequence[str]], output: int, pass_fds: Sequence[int] = (), **options: Any
) -> AsyncIterator[Process]:
    """Bubblewrap with pipes, running a command in a new pid namespace; when the context ends, all of that is gone.

    Process 1 of the namespace is killed by a file descriptor that is opened before the command runs: nothing inside can
    prevent that, and the kernel ends every process of the namespace with it.

    line: gives the command line, for options of bubblewrap that it must contain. output, options: as `piped_process`.

    Raises:
        InfrastructureError: as `piped_process`.
    """
    pipes = _Pipes()

    async def started() -> tuple[Process, int | None]:
        passed = {"pass_fds": (*pipes.passed, *pass_fds)}
        process = await _start(line(pipes.options), output, {**options, **passed})
        return process, await pipes.first_process()

    with contextlib.closing(pipes):
        # cancelled in between, it would leave a process that has not been announced yet
        process, first = await _completed(started())
        try:
            if first is not None:
                pipes.proceed()
            yield process
        finally:
            await _end(process, first)


class _Pipes:
    """Two pipes: bubblewrap announces process 1 of its namespace, which then waits before it runs the command."""

    def __init__(self) -> None:
        self._info, end = os.pipe()
        # bubblewrap reads this pipe, too: otherwise it would end while it writes, if this process is killed before, and
        # leave process 1 waiting for it
        info = os.open(f"/proc/self/fd/{end}", os.O_RDWR | os.O_CLOEXEC)
        os.close(end)
        block, self._go = os.pipe()
        self.passed: tuple[int, ...] = (info, block)
        self.options = ("--info-fd", str(info), "--block-fd", str(block))

    async def first_process(self) -> int | None:
        """A file descriptor of process 1; None if bubblewrap has failed before it created one.

        The process has not run the command yet, so its number is still its own.
        """
        self._close_passed()
        text = b""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_SECONDS):
                while chunk := await _read(self._info):
                    text += chunk
        found = re.search(rb'"child-pid": (\d+)', text)
        with contextlib.suppress(ProcessLookupError):
            return os.pidfd_open(int(found[1])) if found else None
        return None

    def proceed(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            os.write(self._go, b"x")

    def _close_passed(self) -> None:
        for end in self.passed:
            os.close(end)
        self.passed = ()

    def close(self) -> None:
        self._close_passed()
        os.close(self._info)
        os.close(self._go)


async def _start(line: Sequence[str], output: int, options: dict[str, Any]) -> Process:
    buffer = 2 * output + 2**16
    try:
        return await asyncio.create_subprocess_exec(
            *line, stdin=PIPE, stdout=PIPE, stderr=PIPE, limit=buffer, **options
        )
    except OSError as error:
        raise InfrastructureError(f"sandbox: cannot start a process: {error}") from error


async def _completed(work: Awaitable[tuple[Process, int | None]]) -> tuple[Process, int | None]:
    """Wait for a start even if this task is cancelled; then what has been started is ended again."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await _end(*await task)
        raise


async def _end(process: Process, first: int | None) -> None:
    """Kill a process by process 1 of its namespace, or itself if it has none, and wait until all of it is gone."""
    with contextlib.suppress(ProcessLookupError):
        if first is None:
            process.kill()
        else:
            signal.pidfd_send_signal(first, signal.SIGKILL)
    await _wait_until_gone(process, first)


async def _wait_until_gone(process: Process, first: int | None) -> None:
    """Wait until a killed process, and the namespace of the file descriptor `first`, are gone; closes `first`.

    Process 1 of a namespace ends after all of its other processes.
    """
    try:
        async with asyncio.timeout(_END_SECONDS):
            if first is not None:
                await _until_readable(first)
            # what is left in the pipes is not read: messages in flight between dead sockets may keep them open
            for number in (0, 1, 2):
                process._transport.get_pipe_transport(number).close()  # type: ignore[attr-defined]
            await process.wait()
            if first is not None:
                with contextlib.suppress(ChildProcessError):  # as process 1 of a container, this is its parent now
                    os.waitid(os.P_PIDFD, first, os.WEXITED | os.WNOHANG)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        raise InfrastructureError(f"sandbox: a box (process {process.pid}) did not end") from None
    finally:
        if first is not None:
            os.close(first)


async def _read(descriptor: int) -> bytes:
    await _until_readable(descriptor)
    return os.read(descriptor, 65536)


async def _until_readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(descriptor, lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)
