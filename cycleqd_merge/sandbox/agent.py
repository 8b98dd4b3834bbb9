"""The first process of a box that lives on: runs commands and a shell on request. It runs inside, on the box's Python.

One request and one reply at a time, each a line of JSON; texts of any bytes in base64. The host believes nothing of it:
at worst a box lies about itself. It cannot be killed from within, being process 1.
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

LONGEST_COMMAND = 60_000  # what a pipe takes while nobody reads it
SHELLS = ("bash", "sh", "dash", "su", "sudo")
GRACE = 1.0
VARIABLES = {name: os.environ[name] for name in ("PATH", "HOME")}  # without those that Python added


def listen(
    out: int, deadline: float, most: int, until: re.Pattern[bytes] | None = None, over: int | None = None
) -> tuple[bytes, bool, re.Match[bytes] | bool | None]:
    """Read `out` until it ends, until the pattern `until` is met, or `over` (a process file descriptor) is readable.

    Returns what was read (at most `most` bytes), whether more was, and the match, True at an end, None if time is up.
    """
    kept, window, cut = bytearray(), b"", False
    with selectors.DefaultSelector() as ready:
        ready.register(out, selectors.EVENT_READ)
        if over is not None:
            ready.register(over, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            events = [key.fd for key, _ in ready.select(left)]
            try:
                chunk = os.read(out, 65536)
            except BlockingIOError:
                if over in events:
                    return bytes(kept), cut, True
                continue
            cut = cut or len(kept) + len(chunk) > most
            kept += chunk[: most - len(kept)]
            if not chunk:
                return bytes(kept), cut, True
            window = window[-200:] + chunk
            found = until.search(window) if until else None
            if found:
                return bytes(kept), cut, found
    return bytes(kept), cut, None


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


def run(argv: list[str], text: bytes, seconds: float, most: int) -> dict[str, Any]:
    """One command to its end or the end of its time; what it leaves running in the background goes on."""
    try:
        process = spawn(argv)
    except OSError as error:
        return {"code": 127, "output": str(error).encode()}
    deadline = time.monotonic() + seconds
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(text)
        process.stdin.close()
    over = os.pidfd_open(process.pid)
    output, cut, ended = listen(process.stdout.fileno(), deadline, most, over=over)
    if ended:
        try:
            process.wait(max(deadline - time.monotonic(), 0.01))
        except subprocess.TimeoutExpired:
            ended = None
    if not ended:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    os.close(over)
    process.stdout.close()
    return {"code": process.returncode if ended else None, "output": output, "cut": cut}


class Shell:
    """A login shell that reads its commands from a pipe, so that a shell started from it takes over the rest."""

    def __init__(self) -> None:
        self.process = spawn(["bash", "--login"])

    def run(self, command: str, seconds: float, most: int) -> dict[str, Any]:
        """A command's output; when its time is up, what it started is killed, and the shell too if that does not help.

        Ended by the command itself, the shell is replaced by a new one.
        """
        if len(command) > LONGEST_COMMAND:
            return {"code": 126, "output": b"bash: command too long"}
        assert self.process.stdout is not None
        before = self.descendants()
        self.type(f"eval {shlex.quote(command)}\n")
        until, out = self.ask(), self.process.stdout.fileno()
        output, cut, met = listen(out, time.monotonic() + seconds, most + 64, until)
        late = met is None
        if late:
            for pid in self.descendants() - before:
                kill(pid)
            # once more, for a killed program may have read the first question
            _, _, met = listen(out, time.monotonic() + GRACE, 0, self.ask())
        if not isinstance(met, re.Match):  # it does not answer, or has ended
            self.restart()
        code = None if late else int(met[1]) if isinstance(met, re.Match) else 0
        shown = until.sub(b"", output)
        return {"code": code, "output": shown[:most], "cut": cut or len(shown) > most}

    def ask(self) -> re.Pattern[bytes]:
        """Have the shell tell when it is done, and how; returns the pattern that this looks like."""
        mark = secrets.token_hex(16)
        self.type(f"printf '\\n%s %s\\n' {mark} $?\n")
        return re.compile(rb"\n%s (\d+)\n" % mark.encode())

    def type(self, text: str) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the shell has ended, as reading from it will tell
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
        """The processes below the shell."""
        parents: dict[int, list[int]] = {}
        for entry in os.listdir("/proc"):
            try:
                with open(f"/proc/{entry}/stat", "rb") as file:
                    parents.setdefault(int(file.read().rpartition(b")")[2].split()[1]), []).append(int(entry))
            except (OSError, ValueError, IndexError):
                continue
        found, open_ = set(), [self.process.pid]
        while open_:
            below = parents.get(open_.pop(), [])
            found.update(below)
            open_.extend(below)
        return found


def kill(pid: int) -> None:
    """Kill a process, unless it is a shell: those live on."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{pid}/comm") as file:
        if file.read().strip() not in SHELLS:
            os.kill(pid, signal.SIGKILL)


def reap(known: set[int]) -> None:
    """Take leave of dead processes that nobody waits for."""
    how = os.WEXITED | os.WNOHANG | os.WNOWAIT
    with contextlib.suppress(ChildProcessError):
        while (dead := os.waitid(os.P_ALL, 0, how)) is not None and dead.si_pid not in known:
            os.waitpid(dead.si_pid, 0)


def main() -> None:
    shell: Shell | None = None
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        reap({shell.process.pid} if shell else set())
        if "shell" in asked:
            shell = shell or Shell()
            reply = shell.run(asked["shell"], asked["seconds"], asked["most"])
        else:
            reply = run(asked["run"], base64.b64decode(asked["stdin"]), asked["seconds"], asked["most"])
        print(json.dumps({**reply, "output": base64.b64encode(reply["output"]).decode()}), flush=True)


if __name__ == "__main__":
    main()
