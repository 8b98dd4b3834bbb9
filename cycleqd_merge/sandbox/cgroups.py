"""Limits for a whole box, by control groups (version 1 or 2), if this process may create them."""

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
_UNREMOVED: list[Path] = []
_PERIOD = 100_000  # microseconds over which CPU time is counted
JOIN = 'while [ "$1" != -- ]; do echo $$ > "$1/cgroup.procs" || exit 1; shift; done; shift; exec "$@"'
"""Shell script that joins the groups before `--`, then runs the command after it."""


@functools.cache
def parent_cgroups() -> tuple[Path, ...]:
    """The groups in which this process can create groups for boxes; none if it may not."""
    found = []
    for line in Path("/proc/self/cgroup").read_text().splitlines() if Path("/proc/self/cgroup").exists() else []:
        _, controllers, path = line.split(":", 2)
        mount = Path("/sys/fs/cgroup", controllers)
        wanted = not controllers or not {"memory", "pids", "cpu"}.isdisjoint(controllers.split(","))
        own = mount / path.lstrip("/") if (mount / path.lstrip("/")).is_dir() else mount
        if wanted and _can_limit(own):
            found.append(own)
    return tuple(found)


def _can_limit(parent: Path) -> bool:
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
    """File -> content for both versions; a group has the files of its version and controllers."""
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
def limited_cgroups(limits: Limits) -> Iterator[Sequence[str]]:
    """Groups with these limits, removed afterwards; gives the command prefix that runs a command in them."""
    groups = [parent / f"cycleqd-{os.getpid()}-{next(_NUMBERS)}" for parent in parent_cgroups()]
    try:
        for group in groups:
            group.mkdir()
            for name, content in _settings(limits).items():
                if (group / name).exists():
                    (group / name).write_text(content)
        yield ["sh", "-c", JOIN, "sh", *map(str, groups), "--"] if groups else []
    finally:
        _UNREMOVED.extend(groups)
        _remove_ended()


@atexit.register
def _remove_ended() -> None:
    """Remove the groups of boxes that have ended."""
    _UNREMOVED[:] = [group for group in _UNREMOVED if not _remove(group)]


def _remove(group: Path) -> bool:
    """Remove a group; returns whether it is gone."""
    try:
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError:  # a process in it has not ended yet: tried again after the next box
        return False
    return True
