"""Commands and shells in boxes, over any provider."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cycleqd_merge.errors import InfrastructureError
from cycleqd_merge.sandbox.protocol import BoxLost, Limits, ProcessResult, Provider, Root

_AGENT = Path(__file__).with_name("agent.py").read_text(encoding="utf-8")
_TAKE_AGENT = "import json; exec(json.loads(input()))"  # what a list of processes shows
_READY = b'{"ready": true}\n'
_TO_START = 60.0  # seconds, on a busy machine
_TO_END = 60.0
_TO_ANSWER = 10.0  # seconds beyond a command's own


async def run_once(
    provider: Provider,
    command: Sequence[str],
    stdin: bytes = b"",
    limits: Limits | None = None,
    root: Root | None = None,
    begins: bytes = b"",
) -> ProcessResult:
    """Run one command in a box of its own; its standard error goes nowhere.

    More output than `limits.output` ends it at once. Its exit status is the box's word: it proves nothing.
    begins: what a trusted command says first, before it does anything that is not; time counts from then on, and it is
    no part of the output.

    Raises:
        InfrastructureError: the host cannot start it, or it does not begin so.
    """
    limits = limits or Limits()
    async with provider.started(command, root or Root(), limits) as process:
        feeding = asyncio.create_task(_feed(process, stdin))
        kept = bytearray()
        code, cut = None, False
        try:
            if begins:
                await _begin(process, kept, begins)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(limits.seconds):
                    cut = await _read(process, kept, limits.output)
                    code = None if cut else await process.wait()
        finally:
            feeding.cancel()
        return ProcessResult(code, bytes(kept[: limits.output]), cut)


async def _begin(process: Process, kept: bytearray, begins: bytes) -> None:
    assert process.stdout is not None
    assert process.stderr is not None
    said = b""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_TO_START):
            while len(kept) < len(begins) and (chunk := await process.stdout.read(65536)):
                kept += chunk
            if kept.startswith(begins):
                del kept[: len(begins)]
                return
            said = await process.stderr.read(2000)
    why = said.decode(errors="replace").strip() or f"it does not say why within {_TO_START:.0f} s"
    raise InfrastructureError(f"the sandbox cannot start a program: {why}")


@asynccontextmanager
async def piped(line: Sequence[str], limits: Limits, **options: Any) -> AsyncIterator[Process]:
    """A process on pipes, which is gone at the end; `options` are those of `asyncio.create_subprocess_exec`.

    Raises:
        InfrastructureError: the host cannot start it, or something in the box outlives it.
    """
    most = 2 * limits.output + 2**16
    try:
        process = await asyncio.create_subprocess_exec(
            *line, stdin=PIPE, stdout=PIPE, stderr=PIPE, limit=most, **options
        )
    except OSError as error:
        raise InfrastructureError(f"the sandbox cannot start a process: {error}") from error
    try:
        yield process
    finally:
        await ended(process)


async def ended(process: Process) -> None:
    """Kill a process and wait until it is gone, with what it still has to say: unread pipes would hold it up.

    Raises:
        InfrastructureError: something in the box outlives it.
    """
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    try:
        async with asyncio.timeout(_TO_END):
            for stream in (process.stdout, process.stderr):
                while stream is not None and await stream.read(65536):
                    pass
            await process.wait()
    except TimeoutError:
        raise InfrastructureError(f"a box of the sandbox (process {process.pid}) cannot be ended") from None


async def _feed(process: Process, stdin: bytes) -> None:
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.write(stdin)
        await process.stdin.drain()
        process.stdin.close()


async def _read(process: Process, kept: bytearray, most: int) -> bool:
    """Read until the output ends (False) or is too much (True)."""
    assert process.stdout is not None
    while chunk := await process.stdout.read(65536):
        kept += chunk
        if len(kept) > most:
            return True
    return False


class Box:
    """A box that lives on between commands. One request at a time; `open_box` makes it."""

    def __init__(self, process: Process, limits: Limits) -> None:
        self._process, self._limits = process, limits

    async def run(self, command: Sequence[str], stdin: bytes = b"", seconds: float | None = None) -> ProcessResult:
        """Run a command from `/` to its end or the end of its time. What it leaves in the background goes on.

        seconds: instead of the box's own limit.

        Raises:
            BoxLost: the box does not answer any more.
        """
        text = base64.b64encode(stdin).decode()
        return await self._ask({"run": list(command), "stdin": text}, seconds or self._limits.seconds)

    async def shell(self, command: str) -> ProcessResult:
        """Run a command in the box's login shell, which keeps its directory, variables and jobs between commands.

        Raises:
            BoxLost: the box does not answer any more.
        """
        return await self._ask({"shell": command}, self._limits.seconds)

    async def _ask(self, request: dict[str, Any], seconds: float) -> ProcessResult:
        most = self._limits.output
        line = json.dumps({**request, "seconds": seconds, "most": most})
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(seconds + _TO_ANSWER):
                self._process.stdin.write(line.encode() + b"\n")
                await self._process.stdin.drain()
                return _finished(await self._process.stdout.readline(), most)
        except (TimeoutError, OSError, ValueError) as error:  # ValueError: a line beyond the reader's limit
            raise BoxLost(f"the box stopped answering: {type(error).__name__}") from error


def _finished(line: bytes, most: int) -> ProcessResult:
    """A reply of the agent, which is not to be trusted."""
    try:
        reply = json.loads(line)
        code, output = reply["code"], base64.b64decode(reply["output"], validate=True)
    except (KeyError, TypeError, RecursionError, ValueError, binascii.Error):
        raise BoxLost("the box stopped answering") from None
    if not isinstance(code, int | None):
        raise BoxLost("the box answered nonsense")
    return ProcessResult(code, output[:most], bool(reply.get("cut")) or len(output) > most)


@asynccontextmanager
async def open_box(provider: Provider, root: Root, limits: Limits) -> AsyncIterator[Box]:
    """A box over a named root, with python3 and bash in it; nothing of it is left afterwards.

    Raises:
        InfrastructureError: the host cannot start it.
    """
    async with provider.started(["python3", "-I", "-S", "-c", _TAKE_AGENT], root, limits) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(json.dumps(_AGENT).encode() + b"\n")
        try:
            async with asyncio.timeout(_TO_START):
                ready = await process.stdout.readline()
                said = b"" if ready == _READY else await process.stderr.read(2000)
        except TimeoutError:
            raise InfrastructureError(f"the sandbox did not start a box within {_TO_START:.0f} s") from None
        if ready != _READY:
            raise InfrastructureError(f"the sandbox cannot start a box: {said.decode(errors='replace').strip()}")
        yield Box(process, limits)
