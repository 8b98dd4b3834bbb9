"""Commands and shells in boxes, with any provider."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cycleqd_merge.errors import InfrastructureError, TaskError
from cycleqd_merge.sandbox.interpreter import SHOW_VERSIONS
from cycleqd_merge.sandbox.processes import START_SECONDS
from cycleqd_merge.sandbox.protocol import MIB, BoxLost, Limits, ProcessResult, Provider, RootFs

_AGENT = Path(__file__).with_name("agent.py").read_text(encoding="utf-8")
_RECEIVE_AGENT = "import json; exec(json.loads(input()))"  # short, because a list of processes shows it
_AGENT_READY = b'{"ready": true}\n'
_REPLY_SECONDS = 10.0  # on top of a command's own time


async def run_once(
    provider: Provider,
    command: Sequence[str],
    stdin: bytes = b"",
    limits: Limits | None = None,
    root: RootFs | None = None,
    ready: bytes = b"",
) -> ProcessResult:
    """Run one command in a new box; its standard error is discarded.

    More output than `limits.output` ends the command at once. The exit status comes from the box and cannot be trusted.

    ready: text that a trusted command writes before it runs anything untrusted. The time limit starts there, and the
    text is not part of the output.

    Raises:
        InfrastructureError: the host cannot start the command, or `ready` does not appear.
    """
    limits = limits or Limits()
    async with provider.start(command, root or RootFs(), limits) as process:
        writing = asyncio.create_task(_write_stdin(process, stdin))
        kept = bytearray()
        code, truncated = None, False
        try:
            if ready:
                await _wait_until_ready(process, kept, ready)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(limits.seconds):
                    truncated = await _read_output(process, kept, limits.output)
                    code = None if truncated else await process.wait()
        finally:
            writing.cancel()
        return ProcessResult(code, bytes(kept[: limits.output]), truncated)


async def shown_versions(provider: Provider) -> str:
    """The versions in boxes without a root file system, by the box itself, such as `Python 3.12.3 with numpy 2.3.1`.

    Raises:
        TaskError: Python or numpy does not run in a box.
    """
    command = [*provider.python(), "-c", SHOW_VERSIONS]
    async with provider.start(command, RootFs(), Limits(memory=4096 * MIB)) as process:
        try:
            output, error = await asyncio.wait_for(process.communicate(), START_SECONDS)
        except TimeoutError:
            output, error = b"", f"no response within {START_SECONDS:.0f} s".encode()
    if not output.startswith(b"Python "):
        lines = error.decode(errors="replace").strip().splitlines()
        raise TaskError(
            f"sandbox: this environment's Python and numpy do not run in a box: {(lines or ['no output'])[-1]}"
        )
    return output.decode()


async def _wait_until_ready(process: Process, kept: bytearray, ready: bytes) -> None:
    assert process.stdout is not None
    assert process.stderr is not None
    error = b""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(START_SECONDS):
            while len(kept) < len(ready) and (chunk := await process.stdout.read(65536)):
                kept += chunk
            if kept.startswith(ready):
                del kept[: len(ready)]
                return
            error = await process.stderr.read(2000)
    why = error.decode(errors="replace").strip() or f"no response within {START_SECONDS:.0f} s"
    raise InfrastructureError(f"sandbox: cannot start a program: {why}")


async def _write_stdin(process: Process, stdin: bytes) -> None:
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.write(stdin)
        await process.stdin.drain()
        process.stdin.close()


async def _read_output(process: Process, kept: bytearray, limit: int) -> bool:
    """Read until the output ends (False) or exceeds the limit (True)."""
    assert process.stdout is not None
    while chunk := await process.stdout.read(65536):
        kept += chunk
        if len(kept) > limit:
            return True
    return False


class Box:
    """A box that runs one command after another; `open_box` creates it. One request at a time."""

    def __init__(self, process: Process, limits: Limits) -> None:
        self._process, self._limits = process, limits

    async def run(self, command: Sequence[str], stdin: bytes = b"", seconds: float | None = None) -> ProcessResult:
        """Run a command in `/` until it ends or its time is up. Its background processes keep running.

        seconds: time limit, instead of the box's own.

        Raises:
            BoxLost: the box has stopped responding.
        """
        text = base64.b64encode(stdin).decode()
        return await self._request({"run": list(command), "stdin": text}, seconds or self._limits.seconds)

    async def shell(self, command: str) -> ProcessResult:
        """Run a command in the box's login shell, which keeps its directory, variables and jobs between commands.

        Raises:
            BoxLost: the box has stopped responding.
        """
        return await self._request({"shell": command}, self._limits.seconds)

    async def _request(self, request: dict[str, Any], seconds: float) -> ProcessResult:
        limit = self._limits.output
        line = json.dumps({**request, "seconds": seconds, "limit": limit})
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(seconds + _REPLY_SECONDS):
                self._process.stdin.write(line.encode() + b"\n")
                await self._process.stdin.drain()
                return _read_reply(await self._process.stdout.readline(), limit)
        except (TimeoutError, OSError, ValueError) as error:  # ValueError: a line beyond the reader's limit
            raise BoxLost(f"the box stopped responding: {type(error).__name__}") from error


def _read_reply(line: bytes, limit: int) -> ProcessResult:
    """A reply of the agent, which is not trusted."""
    try:
        reply = json.loads(line)
        code, output = reply["code"], base64.b64decode(reply["output"], validate=True)
    except (KeyError, TypeError, RecursionError, ValueError, binascii.Error):
        raise BoxLost("the box stopped responding") from None
    if not isinstance(code, int | None):
        raise BoxLost("the box sent an invalid reply")
    return ProcessResult(code, output[:limit], bool(reply.get("truncated")) or len(output) > limit)


@asynccontextmanager
async def open_box(provider: Provider, root: RootFs, limits: Limits) -> AsyncIterator[Box]:
    """A box over a named root file system, which must contain python3 and bash; it is removed afterwards.

    Raises:
        InfrastructureError: the host cannot start it.
    """
    async with provider.start(["python3", "-I", "-S", "-c", _RECEIVE_AGENT], root, limits) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(json.dumps(_AGENT).encode() + b"\n")
        try:
            async with asyncio.timeout(START_SECONDS):
                ready = await process.stdout.readline()
                error = b"" if ready == _AGENT_READY else await process.stderr.read(2000)
        except TimeoutError:
            raise InfrastructureError(f"sandbox: no box started within {START_SECONDS:.0f} s") from None
        if ready != _AGENT_READY:
            raise InfrastructureError(f"sandbox: cannot start a box: {error.decode(errors='replace').strip()}")
        yield Box(process, limits)
