"""Limits on all processes of a box together, where this process may make control groups (version 1 or 2)."""

from __future__ import annotations

import atexit
import functools
import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cycleqd_merge.sandbox.protocol import Limits

_NUMBERS = itertools.count()
_LEFT: list[Path] = []
_PERIOD = 100_000  # microseconds over which CPU time is counted
JOIN = 'while [ "$1" != -- ]; do echo $$ > "$1/cgroup.procs" || exit 1; shift; done; shift; exec "$@"'
"""A shell script that joins the groups before `--` and becomes the command behind it."""


@functools.cache
def parents() -> tuple[Path, ...]:
    """The groups below which boxes get theirs; none where that cannot be done."""
    found = []
    for line in Path("/proc/self/cgroup").read_text().splitlines() if Path("/proc/self/cgroup").exists() else []:
        _, controllers, path = line.split(":", 2)
        mount = Path("/sys/fs/cgroup", controllers)
        wanted = not controllers or not {"memory", "pids", "cpu"}.isdisjoint(controllers.split(","))
        own = mount / path.lstrip("/") if (mount / path.lstrip("/")).is_dir() else mount
        if wanted and _limits_something(own):
            found.append(own)
    return tuple(found)


def _limits_something(parent: Path) -> bool:
    trial = parent / f"cycleqd-probe-{os.getpid()}"
    try:
        trial.mkdir()
    except OSError:
        return False
    try:
        return any((trial / name).exists() for name in _settings(Limits()))
    finally:
        trial.rmdir()


def _settings(limits: Limits) -> dict[str, str]:
    """File -> content, for both versions; a group has those of its version and controllers."""
    return {
        "memory.max": str(limits.memory),
        "memory.swap.max": "0",
        "memory.limit_in_bytes": str(limits.memory),
        "pids.max": str(limits.processes),
        "cpu.max": f"{round(limits.cpus * _PERIOD)} {_PERIOD}",
        "cpu.cfs_period_us": str(_PERIOD),
        "cpu.cfs_quota_us": str(round(limits.cpus * _PERIOD)),
    }


@contextmanager
def groups(limits: Limits) -> Iterator[Sequence[str]]:
    """The beginning of a command line that runs the rest of it in groups with these limits, removed afterwards."""
    made = [parent / f"cycleqd-{os.getpid()}-{next(_NUMBERS)}" for parent in parents()]
    try:
        for group in made:
            group.mkdir()
            for name, content in _settings(limits).items():
                if (group / name).exists():
                    (group / name).write_text(content)
        yield ["sh", "-c", JOIN, "sh", *map(str, made), "--"] if made else []
    finally:
        _LEFT.extend(made)
        _sweep()


@atexit.register
def _sweep() -> None:
    """Remove the groups of boxes that have ended."""
    _LEFT[:] = [group for group in _LEFT if not _removed(group)]


def _removed(group: Path) -> bool:
    try:
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError:  # a process is about to end still: tried again after the next box
        return False
    return True
