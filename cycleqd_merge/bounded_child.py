"""The child process of `bounded`: serves calls within their limits until its parent closes the connection.

Run as a file, with the standard library alone; a call's function is imported by name.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import signal
import sys
import time
import traceback
from importlib import import_module
from typing import Any, BinaryIO


def serve_calls() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    silence = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1):  # what a function prints is not an answer
        os.dup2(silence, stream)
    _limit(resource.RLIMIT_CORE, 0)
    sys.path[:] = _decode(requests.readline())
    for line in requests:
        _answer(line, answers)


def _answer(line: bytes, answers: BinaryIO) -> None:
    try:
        (module, name), (seconds, memory, output), args, kwargs = _decode(line)
        try:
            function = getattr(import_module(module), name)
            _limit(resource.RLIMIT_CPU, math.ceil(time.process_time() + seconds))
            _limit(resource.RLIMIT_AS, _address_space() + memory)
            text = _encode(["value", function(*args, **kwargs)])
            if len(text) > output:
                text = _encode(["limit", "output"])
        finally:
            _limit(resource.RLIMIT_CPU, resource.RLIM_INFINITY)
            _limit(resource.RLIMIT_AS, resource.RLIM_INFINITY)
    except MemoryError:
        text = _encode(["limit", "memory"])
    except RecursionError:
        text = _encode(["limit", "depth"])
    except Exception as error:
        text = _encode(["error", [type(error).__name__, str(error), traceback.format_exc()]])
    answers.write(text)
    answers.flush()


def _limit(kind: int, value: int) -> None:
    """Set a soft limit, within the hard one."""
    _, hard = resource.getrlimit(kind)
    unlimited = resource.RLIM_INFINITY
    soft = hard if value == unlimited else value if hard == unlimited else min(value, hard)
    with contextlib.suppress(ValueError, OSError):  # macOS does not support all of them
        resource.setrlimit(kind, (soft, hard))


def _address_space() -> int:
    """Size of this process's address space, in bytes; 1 TiB where the system does not report it."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:  # not Linux: no limit of memory
        return 2**40


def _encode(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"


def _decode(line: bytes) -> Any:
    return json.loads(line.decode("utf-8", "surrogatepass"))


if __name__ == "__main__":
    serve_calls()
