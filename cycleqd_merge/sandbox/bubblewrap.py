"""Boxes by bubblewrap: namespaces of the running kernel, no daemon, a few milliseconds each.

A box without a root of its own sees the host's /usr read-only, as a user of its own without capabilities. A box with a
root sees an overlay of it: changes go to memory and away with the box. It has several users, root among them, who is
nobody on the host and holds only the capabilities that a container's root needs.
"""

from __future__ import annotations

import asyncio
import functools
import os
import shutil
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from cycleqd_merge.errors import InfrastructureError, UserError
from cycleqd_merge.event_loop import run_coroutine
from cycleqd_merge.sandbox.boxes import open_box, piped
from cycleqd_merge.sandbox.cgroups import groups, parents
from cycleqd_merge.sandbox.identities import as_nobody, as_root_of_its_own, first_user
from cycleqd_merge.sandbox.protocol import BoxLost, Limits, Root
from cycleqd_merge.sandbox.rootfs import find_rootfs

_CAPABILITIES = "chown dac_override fowner fsetid kill setgid setuid setpcap sys_chroot net_bind_service audit_write"
_EVERY_BOX = (
    "--unshare-pid --unshare-net --unshare-ipc --unshare-uts --unshare-cgroup-try --die-with-parent --new-session "
    "--hostname box --cap-drop ALL --clearenv --as-pid-1"
)
_OVERLAY = """
echo 0 > /proc/sys/user/max_user_namespaces || exit 1
mount -t tmpfs -o mode=755,size="$1",nr_inodes=200k tmpfs /tmp && mkdir /tmp/upper /tmp/work /tmp/root || exit 1
mount -t overlay -o userxattr,lowerdir=.,upperdir=/tmp/upper,workdir=/tmp/work overlay /tmp/root || exit 1
shift && exec "$@"
"""
"""Over the current directory, which may lie where this user could not go; in a mount namespace of its own."""


class Bubblewrap:
    """See `Provider`."""

    def __init__(self, program: str = "bwrap") -> None:
        self._program = program

    def probe(self, root: Root) -> str:
        for needed, package in ((self._program, "bubblewrap"), ("nsenter", "util-linux"), ("prlimit", "util-linux")):
            if shutil.which(needed) is None:
                raise UserError(f"no sandbox: {needed} is missing: `sudo apt-get install {package}` (or {_OTHER})")
        if root.name is not None:
            find_rootfs(root.name)
            first_user()
        elif not Path("/usr/bin/python3").exists() and not Path("/usr/local/bin/python3").exists():
            raise UserError("no sandbox: there is no python3 below /usr: `sudo apt-get install python3`")
        said = run_coroutine(self._try(root))
        if said:
            raise UserError(f"no sandbox: bubblewrap does not work here: {said}; {_hint()} (or {_OTHER})")
        limited = "limits by control groups" if parents() else "limits per process (control groups are not writable)"
        return f"bubblewrap, {'host files' if root.name is None else f'root {root.name}'}, {limited}"

    async def _try(self, root: Root) -> str:
        """What goes wrong with a box, if anything does."""
        try:
            if root.name is not None:
                async with open_box(self, root, Limits()) as box:
                    finished = await box.run(["sh", "-c", "su -s /bin/sh nobody -c 'echo works'"])
            else:
                async with self.started(["echo", "works"], root, Limits()) as process:
                    output, error = await asyncio.wait_for(process.communicate(), 30)
                    return "" if output == b"works\n" else error.decode(errors="replace").strip() or "no answer"
        except (BoxLost, InfrastructureError, TimeoutError) as error:
            return str(error)
        return "" if finished.output == b"works\n" else finished.output.decode(errors="replace").strip()

    @asynccontextmanager
    async def started(self, command: Sequence[str], root: Root, limits: Limits) -> AsyncIterator[Process]:
        async with AsyncExitStack() as stack:
            beginning = [*stack.enter_context(groups(limits)), *_resource_limits(limits)]
            if root.name is None:
                folder = None
                line = [*beginning, *as_nobody(), self._program, *_host_files(limits), *_inside(command, limits)]
            else:
                folder = find_rootfs(root.name)
                as_root = await stack.enter_async_context(as_root_of_its_own())
                mounting = ["unshare", "--mount", "--propagation", "private", "--"]
                mounting += ["sh", "-c", _OVERLAY, "sh", str(limits.disk)]
                box = [self._program, *_own_root(), *_inside(command, limits)]
                line = [*beginning, *as_root, *mounting, *box]
            # its variables can be read from within the box, so it gets none of this process'
            variables = {"PATH": os.environ.get("PATH", os.defpath)}
            async with piped(line, limits, cwd=folder or "/", env=variables) as process:
                yield process  # bubblewrap's own end takes the box with it


def _resource_limits(limits: Limits) -> list[str]:
    """Limits of every process that hold from outside."""
    return ["prlimit", f"--as={limits.memory}", f"--fsize={limits.disk}", "--core=0", "--nofile=1024", "--"]


def _inside(command: Sequence[str], limits: Limits) -> list[str]:
    """A command with the limit that must be set in a box: outside, it would count what else this user runs."""
    return ["--", "prlimit", f"--nproc={limits.processes}", "--", *command]


@functools.cache
def _usr() -> tuple[str, ...]:
    """The host's /usr and the links to it that its programs count on."""
    options = ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64"):
        path = Path("/", name)
        if path.is_symlink():
            options += ["--symlink", os.readlink(path), str(path)]
        elif path.is_dir():
            options += ["--ro-bind", str(path), str(path)]
    return (*options, "--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache")


def _host_files(limits: Limits) -> list[str]:
    files = ["--proc", "/proc", "--dev", "/dev", "--size", str(limits.disk), "--tmpfs", "/tmp", "--chdir", "/tmp"]
    variables = ["--setenv", "PATH", "/usr/local/bin:/usr/bin:/bin", "--setenv", "HOME", "/tmp"]
    alone = ["--unshare-user", "--disable-userns", "--uid", "1000", "--gid", "1000"]
    return [*_EVERY_BOX.split(), *alone, *_usr(), *files, "--remount-ro", "/", *variables]


def _own_root() -> list[str]:
    files = ["--bind", "/tmp/root", "/", "--proc", "/proc", "--tmpfs", "/proc/tty", "--dev", "/dev", "--chdir", "/"]
    paths = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    variables = ["--setenv", "PATH", paths, "--setenv", "HOME", "/root"]
    allowed = [word for name in _CAPABILITIES.split() for word in ("--cap-add", f"cap_{name}")]
    return [*_EVERY_BOX.split(), *allowed, *files, *variables]


_OTHER = "install Docker and start its daemon"


def _hint() -> str:
    """What usually stands in bubblewrap's way on a host like this one."""
    settings = {
        "kernel/apparmor_restrict_unprivileged_userns": ("1", "0"),
        "kernel/unprivileged_userns_clone": ("0", "1"),
        "user/max_user_namespaces": ("0", "10000"),
    }
    for name, (blocking, allowing) in settings.items():
        path = Path("/proc/sys", name)
        if path.exists() and path.read_text().strip() == blocking:
            return f"allow user namespaces: `sudo sysctl {name.replace('/', '.')}={allowing}`"
    if Path("/.dockerenv").exists() or Path("/run/.containerenv").exists():
        return "start this container with `--security-opt seccomp=unconfined --security-opt systempaths=unconfined`"
    return "a kernel with user namespaces and overlays in them (5.11 or newer) is needed: see docs/sandbox.md"
