"""Limits for a whole box, by control groups (version 1 or 2), if this process may create them."""

from __future__ import annotations

import atexit
import functools
import itertools
import os
import re
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cycleqd_merge.errors import InfrastructureError
from cycleqd_merge.sandbox.owners import is_dead, own_name
from cycleqd_merge.sandbox.protocol import Limits

_NUMBERS = itertools.count()
_UNREMOVED: list[Path] = []
_PERIOD = 100_000  # microseconds over which CPU time is counted
_OWN_PROCESSES = 2  # of bubblewrap, one outside of the box and one inside
_NAME = re.compile(r"cycleqd-(?P<owner>\d+(?:-\d+-\d+)?)-\d+")
_SWEEP_SECONDS = 5.0
_JOIN = """
echo 1000 > /proc/self/oom_score_adj
while [ "$1" != -- ]; do echo $$ > "$1/cgroup.procs" || exit 1; shift; done
shift; exec "$@"
"""
"""Shell script that joins the groups before `--`, then runs the command after it.

If the host runs out of memory, it ends a process of a box before any other.
"""


@functools.cache
def parent_cgroups() -> tuple[Path, ...]:
    """The groups in which this process can create groups for boxes; none if it may not.

    Groups of boxes that processes left behind when they were killed are removed from them.
    """
    found = []
    for line in Path("/proc/self/cgroup").read_text().splitlines() if Path("/proc/self/cgroup").exists() else []:
        _, controllers, path = line.split(":", 2)
        mount = Path("/sys/fs/cgroup", controllers)
        wanted = not controllers or not {"memory", "pids", "cpu"}.isdisjoint(controllers.split(","))
        own = mount / path.lstrip("/") if (mount / path.lstrip("/")).is_dir() else mount
        if wanted and _can_limit(own):
            found.append(own)
    for parent in found:
        _sweep(parent)
    return tuple(found)


def _new_group(parent: Path) -> Path:
    return parent / f"cycleqd-{own_name()}-{next(_NUMBERS)}"


def _can_limit(parent: Path) -> bool:
    trial = _new_group(parent)
    try:
        trial.mkdir()
    except OSError:
        return False
    try:
        return any((trial / name).exists() for name in _settings(Limits()))
    finally:
        trial.rmdir()


def _sweep(parent: Path) -> None:
    """Remove groups whose owners have ended, and kill what still runs in them."""
    for group in parent.iterdir():
        name = _NAME.fullmatch(group.name)
        if name is not None and is_dead(name["owner"]):
            deadline = time.monotonic() + _SWEEP_SECONDS
            while not _remove(group) and _kill_members(group) and time.monotonic() < deadline:
                time.sleep(0.01)


def _kill_members(group: Path) -> bool:
    """Kill the processes in a group; False if some of them belong to another user or pid namespace."""
    try:
        members = [int(line) for line in (group / "cgroup.procs").read_text().split()]
    except OSError:  # it is gone
        return True
    if 0 in members:
        return False
    for pid in members:
        try:
            process = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            if str(pid) in (group / "cgroup.procs").read_text().split():  # the number has not been taken since
                signal.pidfd_send_signal(process, signal.SIGKILL)
        except PermissionError:
            return False
        except OSError:  # it has ended, or the group has been removed
            continue
        finally:
            os.close(process)
    return True


def _settings(limits: Limits) -> dict[str, str]:
    """File -> content for both versions; a group has the files of its version and controllers."""
    return {
        "memory.max": str(limits.memory),
        "memory.swap.max": "0",
        "memory.limit_in_bytes": str(limits.memory),
        "pids.max": str(limits.processes + _OWN_PROCESSES),
        "cpu.max": f"{round(limits.cpus * _PERIOD)} {_PERIOD}",
        "cpu.cfs_period_us": str(_PERIOD),
        "cpu.cfs_quota_us": str(round(limits.cpus * _PERIOD)),
    }


@contextmanager
def limited_cgroups(limits: Limits) -> Iterator[Sequence[str]]:
    """Groups with these limits, removed afterwards; gives the command prefix that runs a command in them.

    Raises:
        InfrastructureError: the host does not create them any more.
    """
    groups = [_new_group(parent) for parent in parent_cgroups()]
    try:
        for group in groups:
            _create(group, limits)
        yield ["sh", "-c", _JOIN, "sh", *map(str, groups), "--"]
    finally:
        _UNREMOVED.extend(groups)
        _remove_ended()


def _create(group: Path, limits: Limits) -> None:
    try:
        group.mkdir()
        for name, content in _settings(limits).items():
            if (group / name).exists():
                (group / name).write_text(content)
    except OSError as error:
        raise InfrastructureError(f"sandbox: cannot create the control group {group}: {error.strerror}") from error


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
