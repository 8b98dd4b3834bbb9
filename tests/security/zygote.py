"""Commands in child processes that are killed, or denied the disk, at an exact instant.

A process that has imported what commands need forks one child per command, which starts in milliseconds. In the child,
an audit hook counts what the command does to the disk (files opened for writing, renamed, removed, folders created,
files synced), and the transport of the Hub's client counts requests; at a given number, the child is killed, or the
system "refuses".
"""

from __future__ import annotations

import atexit
import ctypes
import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import pytest

from tests.quick_figures import draw_quickly

ROOT = Path(__file__).parents[2]
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate"}
_CREATING = {"open", "os.rename", "os.mkdir", "os.link", "os.symlink", "os.fsync"}
_UNREAL = ("/dev", "/proc", "/sys")
_NEW_MOUNTS, _NEW_USER = 0x00020000, 0x10000000  # of unshare(2)
_READ_ONLY, _REMOUNT, _BIND, _RECURSIVE, _PRIVATE = 1, 32, 4096, 16384, 1 << 18  # of mount(2)


@dataclass(frozen=True)
class Ended:
    """How a command ended. code: negative for a signal. events: the number of changes to the disk and requests."""

    code: int
    out: str
    err: str
    events: int


class Zygote:
    """The process that children are forked from. wrapper: a command that runs it, such as one with its own mounts."""

    def __init__(self, environment: Mapping[str, str], wrapper: tuple[str, ...] = ()) -> None:
        self._process = subprocess.Popen(
            [*wrapper, sys.executable, "-m", "tests.security.zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            text=True,
        )

    def __call__(
        self,
        *arguments: object,
        kill: int | None = None,
        full: int | None = None,
        count: str = "disk",
        shift: float = 0.0,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        before: str = "",
        mounts: Sequence[tuple[str, Path, str]] = (),
        again: str | None = None,
    ) -> Ended:
        """Run the command line with `arguments` in a child.

        kill, full: the number of the event at which the child is killed, or from which on the disk is full. count:
        events to count: "disk", "requests", or "lines" (of Python code that writes files). shift: seconds by which the
        clock is wrong. before: Python code that the child executes first. mounts: file systems that only the child
        sees, of kind "tmpfs" with an option such as "size=64k", or "read-only". again: Python code to execute once the
        command has ended; it is then run again.
        """
        request = {
            "arguments": [str(each) for each in arguments],
            "kill": kill,
            "full": full,
            "count": count,
            "shift": shift,
            "environment": dict(environment or {}),
            "folder": str(folder or "/"),
            "before": before,
            "mounts": [(kind, str(path), option) for kind, path, option in mounts],
            "again": again,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return Ended(**json.loads(self._process.stdout.readline()))

    def __enter__(self) -> Zygote:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


class _Events:
    """Counts events in the child; acts at the given ones."""

    def __init__(self, counter: int, kill: int | None, full: int | None) -> None:
        self._file, self._kill, self._full = counter, kill, full
        self._seen = 0

    def met(self, creates: bool, path: object = None) -> None:
        """An event is about to happen."""
        self._seen += 1
        os.pwrite(self._file, b"%d" % self._seen, 0)
        if self._kill is not None and self._seen >= self._kill:
            os.kill(os.getpid(), signal.SIGKILL)
        if self._full is not None and self._seen >= self._full and creates:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """An audit hook."""
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & _WRITING or not isinstance(path, str | bytes):
                return
        elif event in _CHANGES:
            path = arguments[0]
        else:
            return
        text = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
        if not text.startswith(_UNREAL):
            self.met(event in _CREATING, text)


def _count_requests(events: _Events) -> None:
    """Count every request of the Hub's client twice: before it is sent, and when its response has arrived."""
    from huggingface_hub.utils import get_session

    transport: Any = next(kind for kind in type(get_session()).__mro__ if kind.__module__.startswith("httpx"))
    send = transport.send

    def counted(*arguments: Any, **options: Any) -> Any:
        events.met(creates=False)
        response = send(*arguments, **options)
        events.met(creates=False)
        return response

    transport.send = counted


def _count_disk(events: _Events) -> None:
    sync = os.fsync

    def synced(descriptor: Any) -> None:
        events.met(creates=True)
        sync(descriptor)

    os.fsync = synced
    sys.addaudithook(events.audit)


def _count_lines(events: _Events) -> None:
    written = tuple(str(ROOT / "cycleqd_merge" / name) for name in ("files.py", "report/page.py"))

    def line(frame: Any, event: str, _: Any) -> Any:
        if event == "line":
            events.met(creates=False)
        return line

    sys.settrace(lambda frame, event, _: line if frame.f_code.co_filename in written else None)


def _mount(kind: str, path: str, option: str) -> None:
    """Mount a file system in this process's own view of the file systems."""
    if kind == "tmpfs":
        _call("mount", b"tmpfs", path.encode(), b"tmpfs", 0, option.encode())
    else:
        _call("mount", path.encode(), path.encode(), None, _BIND | _RECURSIVE, None)
        _call("mount", None, path.encode(), None, _BIND | _REMOUNT | _READ_ONLY, None)


def grow(path: str) -> None:
    """Give a mounted tmpfs more space."""
    _call("mount", None, path.encode(), None, _REMOUNT, b"size=64m")


def _own_mounts() -> None:
    """Give this process, which has one thread, its own view of the file systems."""
    user, group = os.getuid(), os.getgid()
    if user == 0:
        _call("unshare", _NEW_MOUNTS)
    else:
        _call("unshare", _NEW_MOUNTS | _NEW_USER)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    _call("mount", None, b"/", None, _RECURSIVE | _PRIVATE, None)


def _call(name: str, *arguments: Any) -> None:
    """Call a function of the C library."""
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _shift_clock(seconds: float) -> None:
    import time

    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + seconds
    time.time_ns = lambda: now_ns() + int(seconds * 1e9)


def _child(request: dict[str, Any], out: int, err: int, counter: int) -> int:
    """Run the command; returns the exit code."""
    os.dup2(out, 1)
    os.dup2(err, 2)
    if request["mounts"]:
        _own_mounts()
        for mount in request["mounts"]:
            _mount(*mount)
    os.chdir(request["folder"])
    os.environ.update(request["environment"])
    if request["arguments"][0] == "push":
        draw_quickly(pytest.MonkeyPatch())  # its figures would take most of its time
    if request["before"]:
        exec(request["before"], {})
    events = _Events(counter, request["kill"], request["full"])
    if request["shift"]:
        _shift_clock(request["shift"])
    _COUNTS[request["count"]](events)
    code = _command(request["arguments"])
    if request["again"] is not None:
        exec(request["again"], {})
        code = _command(request["arguments"])
    return code


def _command(arguments: list[str]) -> int:
    from cycleqd_merge import cli

    sys.argv = ["cycleqd-merge", *arguments]
    try:
        cli.main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0
    return 0


_COUNTS: dict[str, Callable[[_Events], None]] = {
    "disk": _count_disk,
    "requests": _count_requests,
    "lines": _count_lines,
}


def _run(request: dict[str, Any]) -> dict[str, Any]:
    """Fork a child for a request; returns how it ended."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as counter:
        files = [file.fileno() for file in (out, err, counter)]
        child = os.fork()
        if child == 0:
            _end(request, *files)
        _, status = os.waitpid(child, 0)
        texts = [os.pread(file, 2**24, 0).decode(errors="replace") for file in files]
    return {
        "code": os.waitstatus_to_exitcode(status),
        "out": texts[0],
        "err": texts[1],
        "events": int(texts[2] or 0),
    }


def _end(request: dict[str, Any], out: int, err: int, counter: int) -> NoReturn:
    """In the child: run the command, then end the process as Python does."""
    code = 70
    try:
        code = _child(request, out, err, counter)
        sys.stdout.flush()
        sys.stderr.flush()
        atexit._run_exitfuncs()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _warm_up() -> None:
    """Import what the commands need."""
    for name in (
        "cycleqd_merge.session.evolve",
        "cycleqd_merge.session.push",
        "cycleqd_merge.preflight.plan",
        "cycleqd_merge.report.plan",
        "cycleqd_merge.outputs.export",
        "cycleqd_merge.outputs.measure",
        "cycleqd_merge.outputs.rehearsal",
        "cycleqd_merge.hub.pull",
        "cycleqd_merge.hub.publish",
        "cycleqd_merge.hub.publish_models",
        "cycleqd_merge.report.page",
        "cycleqd_merge.report.figures",
        "cycleqd_merge.comparison.compare",
        "cycleqd_merge.merging.mergekit_run",
        "cycleqd_merge.evaluation.engines.transformers_engine",
        "transformers.models.llama.modeling_llama",
        "transformers.models.auto.modeling_auto",
        "datasets",
        "peft",
        "pyarrow.parquet",
        "matplotlib.pyplot",
        "matplotlib.backends.backend_agg",
        "matplotlib.backends.backend_svg",
    ):
        __import__(name)


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _warm_up()
    for line in sys.stdin:
        print(json.dumps(_run(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    _serve()
