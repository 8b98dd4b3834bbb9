"""The host's user ids that boxes run as: never root's, and where possible not the caller's own."""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import pwd
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from cycleqd_merge.errors import InfrastructureError, TaskError

USER_COUNT = 65536
"""Number of user ids of a box with its own root user, as many as a system expects."""
_ROOT_FIRST_USER = 1_900_000_000  # root maps a box's users to ids from here on, which no system assigns
_UNPRIVILEGED_USERS = itertools.cycle(range(_ROOT_FIRST_USER + USER_COUNT, _ROOT_FIRST_USER + 2 * USER_COUNT))


def unprivileged_prefix() -> list[str]:
    """Command prefix that gives up root for an unused user id, so that boxes do not share per-user limits.

    Empty if this process is not root.
    """
    if os.geteuid() != 0:
        return []
    user = str(next(_UNPRIVILEGED_USERS))
    return ["setpriv", "--reuid", user, "--regid", user, "--clear-groups", "--"]


@functools.cache
def first_user() -> int:
    """The host's user id for user 0 of a box with several users.

    Raises:
        TaskError: the host assigns no range of user ids to this user.
    """
    if os.geteuid() == 0:
        return _ROOT_FIRST_USER
    name = pwd.getpwuid(os.geteuid()).pw_name
    try:
        for line in Path("/etc/subuid").read_text().splitlines():
            owner, first, count = line.split(":")
            if owner in (name, str(os.geteuid())) and int(count) >= USER_COUNT:
                return int(first)
    except (OSError, ValueError):
        pass
    raise TaskError(
        f"sandbox: /etc/subuid assigns no range of {USER_COUNT} user ids to {name}, "
        "which a box with several users requires: "
        f"`sudo apt-get install uidmap && sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}`"
    )


@asynccontextmanager
async def user_namespace() -> AsyncIterator[list[str]]:
    """A user namespace with several users; gives the command prefix that runs a command as its root.

    What its users hold (signals, watches, ...) counts as its creator's, too: not root's, who would run out of it.

    Raises:
        InfrastructureError: the host cannot create it.
    """
    holding = [*unprivileged_prefix(), "unshare", "--user", "--", "sh", "-c", "echo; exec cat"]
    try:
        holder = await asyncio.create_subprocess_exec(*holding, stdin=PIPE, stdout=PIPE, stderr=DEVNULL)
    except OSError as error:
        raise InfrastructureError(f"sandbox: cannot start a process: {error}") from error
    try:
        assert holder.stdout is not None
        if await holder.stdout.readline() != b"\n":
            raise InfrastructureError("sandbox: cannot create a user namespace")
        await _map_users(holder.pid)
        yield ["nsenter", f"--user=/proc/{holder.pid}/ns/user", "--setuid", "0", "--setgid", "0", "--"]
    finally:
        if holder.returncode is None:
            holder.kill()
        await holder.wait()


async def _map_users(pid: int) -> None:
    """Map the users and groups of a process's user namespace to the host's."""
    for kind in ("uid", "gid"):
        numbers = ["0", str(first_user()), str(USER_COUNT)]
        if os.geteuid() == 0:
            try:
                Path(f"/proc/{pid}/{kind}_map").write_text(" ".join(numbers))
            except OSError as error:
                raise InfrastructureError(f"sandbox: cannot map the users of a box: {error.strerror}") from error
        else:
            await _run([f"new{kind}map", str(pid), *numbers])


async def _run(command: Sequence[str]) -> None:
    try:
        process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE)
    except FileNotFoundError:
        raise InfrastructureError(f"sandbox: {command[0]} is not installed: `sudo apt-get install uidmap`") from None
    _, error = await process.communicate()
    if process.returncode:
        raise InfrastructureError(f"sandbox: {command[0]} failed: {error.decode(errors='replace').strip()}")
