"""Boxes by bubblewrap: Linux namespaces, without a daemon, started in a few milliseconds.

A box without a root file system sees the host's /usr and this environment's Python, read-only, as a user of its own
without capabilities. A box with a root file system sees an overlay of it: changes are kept in memory and discarded with
the box. It has several users; its root is an unprivileged user of the host and has only the capabilities that a
container's root needs.
"""

from __future__ import annotations

import asyncio
import functools
import os
import platform
import shutil
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from cycleqd_merge.errors import InfrastructureError, TaskError
from cycleqd_merge.event_loop import run_coroutine
from cycleqd_merge.sandbox.boxes import open_box
from cycleqd_merge.sandbox.cgroups import limited_cgroups, parent_cgroups
from cycleqd_merge.sandbox.interpreter import OPTIONS, BoundPython, bound_python, staged, unreachable
from cycleqd_merge.sandbox.keyring import new_keyring_prefix
from cycleqd_merge.sandbox.processes import bubblewrap_process
from cycleqd_merge.sandbox.protocol import BoxLost, Limits, RootFs
from cycleqd_merge.sandbox.rootfs import find_rootfs
from cycleqd_merge.sandbox.seccomp import filter_file, supported
from cycleqd_merge.sandbox.users import first_user, unprivileged_prefix, user_namespace

_CAPABILITIES = "chown dac_override fowner fsetid kill setgid setuid setpcap sys_chroot net_bind_service audit_write"
_COMMON_OPTIONS = (
    "--unshare-pid --unshare-net --unshare-ipc --unshare-uts --unshare-cgroup-try --die-with-parent --new-session "
    "--hostname box --cap-drop ALL --clearenv"
)
_OVERLAY = """
echo 0 > /proc/sys/user/max_user_namespaces || exit 1
mount -t tmpfs -o mode=755,size="$1",nr_inodes=200k tmpfs /tmp && mkdir /tmp/upper /tmp/work /tmp/root || exit 1
mkdir -m 1777 /tmp/shm || exit 1
mount -t overlay -o userxattr,lowerdir=.,upperdir=/tmp/upper,workdir=/tmp/work overlay /tmp/root || exit 1
shift && exec "$@"
"""
"""Mounts the overlay over the current directory, whose path this user may not be able to reach, and runs a command.

It runs in a mount namespace of its own. Files in /tmp/shm count towards the same limit.
"""
_HIDDEN = (
    "acpi asound config.gz interrupts kallsyms kcore key-users keys kmsg latency_stats sched_debug scsi timer_list "
    "timer_stats tty"
)
"""Entries of /proc that describe the host, its memory or keys; most container runtimes hide them, too."""
_HIDDEN_OF_FIRST = "cmdline environ task/1/cmdline task/1/environ"
"""Entries of process 1, bubblewrap's own, that name paths of the host."""
_STAGE = 'while [ "$1" != -- ]; do mount --bind "$1" "$2" || exit 1; shift 2; done; shift; exec "$@"'
"""Mounts paths elsewhere, in pairs before `--`, then runs the command after it."""


class Bubblewrap:
    """A `Provider`."""

    def __init__(self, program: str = "bwrap") -> None:
        self._program = program

    def probe(self, root: RootFs) -> str:
        for needed, package in ((self._program, "bubblewrap"), ("nsenter", "util-linux"), ("prlimit", "util-linux")):
            if shutil.which(needed) is None:
                raise TaskError(
                    f"sandbox: {needed} is not installed: `sudo apt-get install {package}` (or {_ALTERNATIVE})"
                )
        if not supported(platform.machine()):
            raise TaskError(f"sandbox: no filter of system calls for {platform.machine()}; use x86-64 or arm64")
        if root.name is not None:
            find_rootfs(root.name)
            first_user()
        problem = run_coroutine(self._try_box(root))
        if problem:
            why = problem.splitlines()[0]
            raise TaskError(f"sandbox: bubblewrap does not work here: {why}; {_remedy()} (or {_ALTERNATIVE})")
        files = "" if root.name is None else f"root {root.name}, "
        limits = "by control groups" if parent_cgroups() else "per process (control groups are not writable)"
        return f"bubblewrap, {files}limits {limits}"

    def python(self) -> list[str]:
        return [bound_python().command, *OPTIONS]

    async def _try_box(self, root: RootFs) -> str:
        """Run a command in a box; returns what is wrong, or an empty text."""
        try:
            if root.name is not None:
                async with open_box(self, root, Limits()) as box:
                    finished = await box.run(["sh", "-c", "su -s /bin/sh nobody -c 'echo works'"])
            else:
                async with self.start(["echo", "works"], root, Limits()) as process:
                    output, error = await asyncio.wait_for(process.communicate(), 30)
                    return "" if output == b"works\n" else error.decode(errors="replace").strip() or "no output"
        except (BoxLost, InfrastructureError, TimeoutError) as error:
            return str(error)
        return "" if finished.output == b"works\n" else finished.output.decode(errors="replace").strip()

    @asynccontextmanager
    async def start(self, command: Sequence[str], root: RootFs, limits: Limits) -> AsyncIterator[Process]:
        if shutil.which(self._program) is None:
            raise InfrastructureError(f"sandbox: cannot start a process: {self._program} is no longer installed")
        async with AsyncExitStack() as stack:
            filtering = stack.enter_context(filter_file())
            groups = stack.enter_context(limited_cgroups(limits))
            prefix = [*new_keyring_prefix(), *groups, *_process_limits(limits)]
            inside = ["--seccomp", str(filtering), *_limited_inside(command, limits)]
            if root.name is None:
                folder = None
                python = bound_python()
                staging, mounts = _reachable_mounts(python)
                options = [*_host_files_options(limits), *_python_options(python, mounts), "--remount-ro", "/"]
                before = [*prefix, *staging, *unprivileged_prefix(), self._program]
            else:
                folder = find_rootfs(root.name)
                as_root = await stack.enter_async_context(user_namespace())
                mounting = ["unshare", "--mount", "--propagation", "private", "--"]
                mounting += ["sh", "-c", _OVERLAY, "sh", str(limits.disk)]
                before, options = [*prefix, *as_root, *mounting, self._program], _rootfs_options()
            # a box can read bubblewrap's environment, so it gets none of this process's variables
            variables = {"PATH": os.environ.get("PATH", os.defpath)}
            async with bubblewrap_process(
                lambda noted: [*before, *noted, *options, *inside],
                limits.output,
                pass_fds=(filtering,),
                cwd=folder or "/",
                env=variables,
            ) as process:
                yield process


def _process_limits(limits: Limits) -> list[str]:
    """Command prefix that limits every process.

    One byte of memory dumps is the value that keeps away the host's handler of crashes, which 0 does not.
    """
    sizes = [f"--as={limits.memory}", f"--fsize={limits.disk}", "--core=1", "--nofile=1024"]
    return ["prlimit", *sizes, "--sigpending=1024", "--rtprio=0", "--nice=0", "--"]


def _limited_inside(command: Sequence[str], limits: Limits) -> list[str]:
    """A command with the limit that is set inside the box: outside, it would also count this user's other processes.

    Process 1 of the box is bubblewrap's, and does not count.
    """
    return ["--", "prlimit", f"--nproc={limits.processes + 1}", "--", *command]


@functools.cache
def _usr() -> tuple[str, ...]:
    """Options for the host's /usr, and the links to it that its programs rely on."""
    options = ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64"):
        path = Path("/", name)
        if path.is_symlink():
            options += ["--symlink", os.readlink(path), str(path)]
        elif path.is_dir():
            options += ["--ro-bind", str(path), str(path)]
    return (*options, "--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache")


def _host_files_options(limits: Limits) -> list[str]:
    files = [*_proc_options(), *_devices_options(), "--size", str(limits.disk), "--tmpfs", "/tmp", "--chdir", "/tmp"]
    variables = ["--setenv", "PATH", "/usr/local/bin:/usr/bin:/bin", "--setenv", "HOME", "/tmp"]
    user = ["--unshare-user", "--disable-userns", "--uid", "1000", "--gid", "1000"]
    return [*_COMMON_OPTIONS.split(), *user, *_usr(), *files, *variables]


@functools.cache
def _proc_options() -> tuple[str, ...]:
    """Options for a read-only /proc without the entries that a box does not need; kernels differ in what they have.

    Nothing in a box may write to the kernel's settings, or to the memory of bubblewrap's process 1, by which the box
    ends.
    """
    options = ["--proc", "/proc", "--remount-ro", "/proc"]
    for path in (Path("/proc", name) for name in _HIDDEN.split()):
        if path.is_dir():
            options += ["--size", "4096", "--tmpfs", str(path), "--remount-ro", str(path)]
        elif path.exists():
            options += ["--dev-bind", "/dev/null", str(path)]
    for name in _HIDDEN_OF_FIRST.split():
        options += ["--dev-bind", "/dev/null", f"/proc/1/{name}"]
    return tuple(options)


@functools.cache
def _devices_options() -> tuple[str, ...]:
    """Options for a read-only /dev without terminals, whose shared memory counts as files in /tmp."""
    options = ["--size", "65536", "--tmpfs", "/dev"]
    for name in ("null", "zero", "full", "random", "urandom", "tty"):
        options += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    for name, target in (("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"), ("stderr", "/proc/self/fd/2")):
        options += ["--symlink", target, f"/dev/{name}"]
    options += ["--symlink", "/proc/self/fd", "/dev/fd", "--symlink", "/tmp", "/dev/shm"]
    return (*options, "--remount-ro", "/dev")


Mounts = Sequence[tuple[str, str]]


def _reachable_mounts(python: BoundPython) -> tuple[list[str], Mounts]:
    """Command prefix that makes the interpreter reachable for the box's user, and its mounts from there on.

    Root gives up its rights before bubblewrap mounts anything: what is below its home is mounted elsewhere first.
    """
    hidden = unreachable([source for source, _ in python.mounts]) if os.geteuid() == 0 else []
    if not hidden:
        return [], python.mounts
    pairs = [path for source in hidden for path in (source, staged(source))]
    command = ["unshare", "--mount", "--propagation", "private", "--", "sh", "-c", _STAGE, "sh", *pairs, "--"]
    return command, [(staged(source) if source in hidden else source, place) for source, place in python.mounts]


def _python_options(python: BoundPython, mounts: Mounts) -> list[str]:
    """Options that mount the interpreter and numpy, and set its variables."""
    options, late = list[str](), list[str]()
    for source, place in mounts:
        inside = python.hidden is not None and place.startswith(python.hidden)
        (late if inside else options).extend(("--ro-bind", source, place))
    if python.hidden is not None:
        options += ["--size", "65536", "--tmpfs", python.hidden, *late, "--remount-ro", python.hidden]
    return [*options, *(word for variable in python.variables.items() for word in ("--setenv", *variable))]


def _rootfs_options() -> list[str]:
    devices = ["--dev", "/dev", "--bind", "/tmp/shm", "/dev/shm", "--remount-ro", "/dev"]
    files = ["--bind", "/tmp/root", "/", *_proc_options(), *devices, "--chdir", "/"]
    paths = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    variables = ["--setenv", "PATH", paths, "--setenv", "HOME", "/root"]
    allowed = [word for name in _CAPABILITIES.split() for word in ("--cap-add", f"cap_{name}")]
    return [*_COMMON_OPTIONS.split(), *allowed, *files, *variables]


_ALTERNATIVE = "install Docker and start its daemon"


def _remedy() -> str:
    """How to fix the most likely cause on this host."""
    settings = {
        "kernel/apparmor_restrict_unprivileged_userns": ("1", "0"),
        "kernel/unprivileged_userns_clone": ("0", "1"),
        "user/max_user_namespaces": ("0", "10000"),
    }
    for name, (blocking, allowing) in settings.items():
        path = Path("/proc/sys", name)
        if path.exists() and path.read_text().strip() == blocking:
            return f"allow user namespaces: `sudo sysctl {name.replace('/', '.')}={allowing}`"
    if not any(line.startswith("Seccomp:") for line in Path("/proc/self/status").read_text().splitlines()):
        return "its boxes require a kernel with filters of system calls (CONFIG_SECCOMP_FILTER)"
    if Path("/.dockerenv").exists() or Path("/run/.containerenv").exists():
        return "start this container with `--security-opt seccomp=unconfined --security-opt systempaths=unconfined`"
    return "it requires a kernel with user namespaces and overlays in them (5.11 or newer): see docs/sandbox.md"
