"""The names of processes that own boxes, by which a later process knows that what they left behind is nobody's."""

from __future__ import annotations

import os
from pathlib import Path


def own_name() -> str:
    """This process's id, its start time and its pid namespace: numbers with `-` between them."""
    return f"{os.getpid()}-{_start_time('self')}-{_pid_namespace()}"


def is_dead(owner: str) -> bool:
    """Whether the process that `own_name` named has ended; False if that cannot be known, as in another pid namespace.

    owner: also the id alone, as version 0.1.0 wrote it.
    """
    match owner.split("-"):
        case [pid]:
            return pid.isdecimal() and not Path("/proc", pid).exists()
        case [pid, started, namespace]:
            return namespace == _pid_namespace() and _start_time(pid) != started
    return False


def _start_time(pid: str) -> str | None:
    """Clock ticks between the start of the system and of a process; None if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _pid_namespace() -> str:
    return str(os.stat("/proc/self/ns/pid").st_ino)
