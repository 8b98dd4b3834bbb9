"""Whom a box runs as on the host: never root, never the user if that can be helped."""

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

from cycleqd_merge.errors import InfrastructureError, UserError

RANGE = 65536
"""Users of a box with a root of its own: as many as a system expects."""
_ROOTS_RANGE = 1_900_000_000  # where the host's root maps the users of boxes to: no system hands these numbers out
_NOBODIES = itertools.cycle(range(_ROOTS_RANGE + RANGE, _ROOTS_RANGE + 2 * RANGE))


def as_nobody() -> list[str]:
    """The beginning of a command line that gives up root for a user of its own, so that boxes do not share limits."""
    if os.geteuid() != 0:
        return []
    user = str(next(_NOBODIES))
    return ["setpriv", "--reuid", user, "--regid", user, "--clear-groups", "--"]


@functools.cache
def first_user() -> int:
    """The host's number for user 0 of a box that has several users.

    Raises:
        UserError: the host gives this user no range of user numbers.
    """
    if os.geteuid() == 0:
        return _ROOTS_RANGE
    name = pwd.getpwuid(os.geteuid()).pw_name
    try:
        for line in Path("/etc/subuid").read_text().splitlines():
            owner, first, count = line.split(":")
            if owner in (name, str(os.geteuid())) and int(count) >= RANGE:
                return int(first)
    except (OSError, ValueError):
        pass
    raise UserError(
        f"no {RANGE} user numbers are set aside for {name} in /etc/subuid, which a box with several users needs: "
        f"`sudo apt-get install uidmap && sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}`"
    )


@asynccontextmanager
async def as_root_of_its_own() -> AsyncIterator[list[str]]:
    """The beginning of a command line that runs the rest of it as root of a user namespace with several users.

    Raises:
        InfrastructureError: the host does not make one.
    """
    holding = ["unshare", "--user", "--", "sh", "-c", "echo; exec cat"]
    try:
        holder = await asyncio.create_subprocess_exec(*holding, stdin=PIPE, stdout=PIPE, stderr=DEVNULL)
    except OSError as error:
        raise InfrastructureError(f"the sandbox cannot start a process: {error}") from error
    try:
        assert holder.stdout is not None
        if await holder.stdout.readline() != b"\n":
            raise InfrastructureError("the sandbox cannot make a user namespace")
        await _map_users(holder.pid)
        yield ["nsenter", f"--user=/proc/{holder.pid}/ns/user", "--setuid", "0", "--setgid", "0", "--"]
    finally:
        if holder.returncode is None:
            holder.kill()
        await holder.wait()


async def _map_users(pid: int) -> None:
    for kind in ("uid", "gid"):
        numbers = ["0", str(first_user()), str(RANGE)]
        if os.geteuid() == 0:
            try:
                Path(f"/proc/{pid}/{kind}_map").write_text(" ".join(numbers))
            except OSError as error:
                raise InfrastructureError(f"the sandbox cannot map the users of a box: {error.strerror}") from error
        else:
            await _succeed([f"new{kind}map", str(pid), *numbers])


async def _succeed(command: Sequence[str]) -> None:
    try:
        process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE)
    except FileNotFoundError:
        raise InfrastructureError(f"{command[0]} is missing: `sudo apt-get install uidmap`") from None
    _, said = await process.communicate()
    if process.returncode:
        raise InfrastructureError(f"{command[0]}: {said.decode(errors='replace').strip()}")
