"""Run our own functions on hostile data within limits of CPU time and memory, in child processes that can be killed.

A regular expression, a parse or a template cannot be interrupted inside a thread, so a hostile one would stop a run.
Each child process serves one call at a time and is kept for the next one; one that exceeds a limit ends and is
replaced. `call` takes any child; a `Keeper` has one of its own, in which calls can leave state behind. Only JSON
travels in both directions. Children end with this process: their connection to it closes, and the limit of CPU time
ends those that are still computing.
"""

from __future__ import annotations

import atexit
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar

from cycleqd_merge import errors
from cycleqd_merge.errors import CycleQDError, InfrastructureError

_P = ParamSpec("_P")
_T = TypeVar("_T")

_CHILD = Path(__file__).with_name("bounded_child.py")
_CHILDREN = min(4, os.cpu_count() or 1)
_WAIT_SECONDS, _WAIT_FACTOR = 300.0, 60.0
"""A call waits for this long, plus this many times its CPU time: an overloaded machine is no reason to give up."""
_OWN_ENDS = {
    signal.SIGXCPU: "CPU time",
    signal.SIGSEGV: "memory",
    signal.SIGBUS: "memory",
    signal.SIGABRT: "memory",
}
"""Signals by which a call itself ends its child, and the limit exceeded: a crash is an overflow of the C stack."""


class LimitExceeded(CycleQDError):
    """A call exceeded its limit of CPU time, memory, output or depth of nesting."""


@dataclass(frozen=True)
class Bounds:
    """Limits of a call: CPU time in seconds (checked in whole seconds, rounded up), memory and output in bytes."""

    seconds: float = 2.0
    memory: int = 2**30
    output: int = 2**24


def call(bounds: Bounds, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """The result of `function`, called in a child process. It blocks; coroutines use `asyncio.to_thread`.

    function: a function at the top level of an importable module; the child imports that module, outside the limits.
    Arguments and result are JSON values: tuples become lists, and keys of dicts become strings.

    Raises:
        LimitExceeded: it exceeded a limit.
        UserError: it raised this error (or a subclass), with the same message.
        InfrastructureError: a child cannot be started, was killed from outside, or got no CPU time for minutes.
        RuntimeError: it raised any other error.
        TypeError: an argument is not a JSON value.
    """
    return _called(_children, bounds, function, args, kwargs)  # type: ignore[no-any-return]


class _Server(Protocol):
    def serve(self, request: bytes, bounds: Bounds) -> tuple[str, Any]: ...


def _called(
    server: _Server, bounds: Bounds, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    name = [function.__module__, function.__qualname__]
    limits = [bounds.seconds, bounds.memory, bounds.output]
    try:
        request = _encode([name, limits, args, kwargs])
    except RecursionError:
        raise LimitExceeded("exceeded the limit of depth") from None
    status, value = server.serve(request, bounds)
    if status == "value":
        return value
    if status == "limit":
        raise LimitExceeded(f"exceeded the limit of {value}")
    raise _error(*value)


def _error(kind: str, message: str, traceback: str) -> Exception:
    raised = getattr(errors, kind, None)
    if isinstance(raised, type) and issubclass(raised, CycleQDError):
        return raised(message)
    return RuntimeError(traceback)


def _encode(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"


class _Children:
    """A few child processes, each started when all others are busy."""

    def __init__(self, most: int) -> None:
        self._idle: queue.LifoQueue[_Child | None] = queue.LifoQueue()
        for _ in range(most):
            self._idle.put(None)

    def serve(self, request: bytes, bounds: Bounds) -> tuple[str, Any]:
        child, intact = self._idle.get(), False
        try:
            if child and child.has_ended():  # killed while idle, as for lack of memory: not because of this call
                child.end()
                child = None
            child = child or _Child()
            answer = child.serve(request, bounds)
            intact = answer[0] != "limit"
            return answer
        finally:
            if child and not intact:
                child.end()
            self._idle.put(child if intact else None)

    def end(self) -> None:
        """End the idle children."""
        while not self._idle.empty():
            if child := self._idle.get():
                child.end()


class Keeper:
    """A child process of its own, which keeps the state that calls leave in their modules until it ends.

    It ends when a call exceeds a limit, or is killed, and takes that state with it: the next call finds a new child.
    """

    def __init__(self) -> None:
        self._children = _Children(1)
        self._process = os.getpid()
        self._lock = threading.Lock()

    def call(self, bounds: Bounds, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """As `bounded.call`, in this child."""
        with self._lock:
            if self._process != os.getpid():  # a forked process needs a child of its own
                self._children, self._process = _Children(1), os.getpid()
        return _called(self._children, bounds, function, args, kwargs)  # type: ignore[no-any-return]


class _Child:
    """A child process, and this end of the connection to it.

    Raises:
        InfrastructureError: it cannot be started.
    """

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._answers = self._socket.makefile("rb")
        command = [sys.executable, "-P", str(_CHILD)]  # -P: nothing is imported from the folder of the file
        try:
            with theirs:
                self._process = subprocess.Popen(
                    command,
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
        except OSError as error:
            raise InfrastructureError(f"cannot start a process for bounded calls: {error}") from error
        self._greeting = _encode(sys.path)

    def serve(self, request: bytes, bounds: Bounds) -> tuple[str, Any]:
        """The child's answer: ("value", value), ("limit", which) or ("error", (class name, message, traceback)).

        Raises:
            InfrastructureError: the child was killed from outside, or got no CPU time for minutes.
        """
        self._socket.settimeout(_WAIT_SECONDS + _WAIT_FACTOR * bounds.seconds)
        try:
            self._socket.sendall(self._greeting + request)
            self._greeting = b""
            line = self._answers.readline()
        except TimeoutError:
            raise InfrastructureError("a bounded call received no CPU time for minutes: overloaded machine") from None
        except OSError:
            line = b""
        if not line:
            return "limit", self._end_of_call()
        try:
            status, value = json.loads(line.decode("utf-8", "surrogatepass"))
        except RecursionError:
            return "limit", "output"
        return status, value

    def _end_of_call(self) -> str:
        """The limit by which a call ended its child."""
        code = self._process.wait()
        if -code not in _OWN_ENDS:
            raise InfrastructureError(f"the process of a bounded call ended with exit code {code}")
        return _OWN_ENDS[signal.Signals(-code)]

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._answers.close()
        self._socket.close()


def _new_children() -> None:
    """A forked process has children of its own: two processes must not share one connection."""
    global _children
    _children = _Children(_CHILDREN)


_children = _Children(_CHILDREN)
os.register_at_fork(after_in_child=_new_children)
atexit.register(lambda: _children.end())
