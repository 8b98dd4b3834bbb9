"""Hostile input handled in a child of this process, with limits on its memory and time."""

from __future__ import annotations

import os
import pickle
import resource
import select
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cycleqd_merge.errors import UserError

GIB = 2**30


def outcome_of(function: Callable[[], Any], memory: int = GIB, seconds: float = 20.0) -> Any:
    """The error that `function` raises in a forked child, or None: ("UserError", its text) or a name and a traceback.

    memory: bytes that the child may allocate beyond what this process has. A child killed by a signal gives that.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        limit_memory(memory)
        _silence()
        answer = pickle.dumps(_error_of(function))
        try:
            with os.fdopen(writer, "wb") as pipe:
                pipe.write(answer)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        in_time = bool(select.select([pipe], [], [], seconds)[0])
        if not in_time:
            os.kill(child, signal.SIGKILL)
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    if not in_time:
        return "Hang", f"no result within {seconds} seconds"
    return pickle.loads(answer) if answer else ("Died", f"status {status}")


def limit_memory(memory: int) -> None:
    """Limit this process to `memory` bytes more than it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    whole = pages * resource.getpagesize() + memory
    resource.setrlimit(resource.RLIMIT_AS, (whole, whole))


def _silence() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # pytest's own are shared with the parent


def _error_of(function: Callable[[], Any]) -> tuple[str, str] | None:
    try:
        function()
    except UserError as error:
        return "UserError", str(error)
    except BaseException as error:
        return type(error).__name__, traceback.format_exc()[-3000:]
    return None
