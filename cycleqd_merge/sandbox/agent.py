"""Runs in a long-lived box: it runs commands and a shell on request, on the box's own Python.

It is sent into the box as text, so it imports the standard library only. Requests and replies alternate, each a line of
JSON with bytes in base64. The host does not trust the replies: a box can only lie about itself. The box's root can kill
it, and so loses the box.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import secrets
import selectors
import shlex
import signal
import subprocess
import sys
import time
from typing import Any

LONGEST_COMMAND = 60_000  # characters; a pipe takes that much while nobody reads it
SHELLS = ("bash", "sh", "dash", "su", "sudo")
GRACE = 1.0  # seconds
QUESTION = re.compile(rb"printf '\\?n%s %s\\?n' [0-9a-f]{32} \$\?\n?")
"""The line that asks for an exit status; a program that reads from the shell's pipe gets it, and may show it."""
VARIABLES = {name: os.environ[name] for name in ("PATH", "HOME")}  # not those that Python added


def listen(
    out: int, deadline: float, limit: int, until: re.Pattern[bytes] | None = None, process_end: int | None = None
) -> tuple[bytes, bool, re.Match[bytes] | bool | None]:
    """Read from `out` until it ends, matches `until`, or the process behind the file descriptor `process_end` ends.

    Returns the output (at most `limit` bytes), whether there was more, and why reading stopped: the match, True at an
    end, None at the deadline (of `time.monotonic`).
    """
    kept, window, truncated = bytearray(), b"", False
    with selectors.DefaultSelector() as ready:
        ready.register(out, selectors.EVENT_READ)
        if process_end is not None:
            ready.register(process_end, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            events = [key.fd for key, _ in ready.select(left)]
            try:
                chunk = os.read(out, 65536)
            except BlockingIOError:
                if process_end in events:
                    return bytes(kept), truncated, True
                continue
            truncated = truncated or len(kept) + len(chunk) > limit
            kept += chunk[: limit - len(kept)]
            if not chunk:
                return bytes(kept), truncated, True
            window = window[-200:] + chunk
            found = until.search(window) if until else None
            if found:
                return bytes(kept), truncated, found
    return bytes(kept), truncated, None


def spawn(argv: list[str]) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        cwd="/",
        env=VARIABLES,
    )
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    return process


def run(argv: list[str], text: bytes, seconds: float, limit: int) -> dict[str, Any]:
    """Run one command until it ends or its time is up. Its background processes keep running."""
    try:
        process = spawn(argv)
    except (OSError, ValueError) as error:  # ValueError: an argument contains a NUL character
        return {"code": 127, "output": str(error).encode()}
    deadline = time.monotonic() + seconds
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(text)
        process.stdin.close()
    process_end = os.pidfd_open(process.pid)
    output, truncated, ended = listen(process.stdout.fileno(), deadline, limit, process_end=process_end)
    if ended:
        try:
            process.wait(max(deadline - time.monotonic(), 0.01))
        except subprocess.TimeoutExpired:
            ended = None
    if not ended:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    os.close(process_end)
    process.stdout.close()
    return {"code": process.returncode if ended else None, "output": output, "truncated": truncated}


class Shell:
    """A login shell that reads its commands from a pipe, so that a shell started in it receives the next ones."""

    def __init__(self) -> None:
        self.process = spawn(["bash", "--login"])

    def run(self, command: str, seconds: float, limit: int) -> dict[str, Any]:
        """Run a command. When its time is up, the processes that it started are killed.

        A shell that does not respond then, or has ended, is replaced by a new one.
        """
        if len(command) > LONGEST_COMMAND:
            return {"code": 126, "output": b"bash: command too long"}
        assert self.process.stdout is not None
        before = self.descendants()
        self.type(f"eval {shlex.quote(command)}\n")
        until, out = self.ask(), self.process.stdout.fileno()
        output, truncated, met = listen(out, time.monotonic() + seconds, limit + 64, until)
        late = met is None
        if late:
            for pid in self.descendants() - before:
                kill(pid)
            # ask again: a killed program may have read the first question
            _, _, met = listen(out, time.monotonic() + GRACE, 0, self.ask())
        if not isinstance(met, re.Match):  # it does not respond, or has ended
            self.restart()
        code = None if late else int(met[1]) if isinstance(met, re.Match) else 0
        shown = QUESTION.sub(b"", until.sub(b"", output))
        return {"code": code, "output": shown[:limit], "truncated": truncated or len(shown) > limit}

    def ask(self) -> re.Pattern[bytes]:
        """Make the shell print a mark and its exit status when it is done; returns the pattern of that line."""
        mark = secrets.token_hex(16)
        self.type(f"printf '\\n%s %s\\n' {mark} $?\n")
        return re.compile(rb"\n%s (\d+)\n" % mark.encode())

    def type(self, text: str) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the shell has ended; reading from it will show that
            self.process.stdin.write(text.encode(errors="surrogateescape"))
            self.process.stdin.flush()

    def restart(self) -> None:
        for pid in {self.process.pid, *self.descendants()}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                assert pipe is not None
                pipe.close()
        self.process = spawn(["bash", "--login"])

    def descendants(self) -> set[int]:
        """Process ids of the shell's descendants."""
        children: dict[int, list[int]] = {}
        for entry in os.listdir("/proc"):
            try:
                with open(f"/proc/{entry}/stat", "rb") as file:
                    children.setdefault(int(file.read().rpartition(b")")[2].split()[1]), []).append(int(entry))
            except (OSError, ValueError, IndexError):
                continue
        found, pending = set(), [self.process.pid]
        while pending:
            below = children.get(pending.pop(), [])
            found.update(below)
            pending.extend(below)
        return found


def kill(pid: int) -> None:
    """Kill a process, unless it is a shell."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{pid}/comm") as file:
        if file.read().strip() not in SHELLS:
            os.kill(pid, signal.SIGKILL)


def serve() -> None:
    """Answer requests until standard input ends."""
    shell: Shell | None = None
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "shell" in request:
            shell = shell or Shell()
            reply = shell.run(request["shell"], request["seconds"], request["limit"])
        else:
            reply = run(request["run"], base64.b64decode(request["stdin"]), request["seconds"], request["limit"])
        print(json.dumps({**reply, "output": base64.b64encode(reply["output"]).decode()}), flush=True)


if __name__ == "__main__":
    serve()
