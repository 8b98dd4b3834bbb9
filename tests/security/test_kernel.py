"""What a hostile program asks of the kernel that its box shares with the host, in real boxes of both kinds."""

from __future__ import annotations

import asyncio
import ctypes
import ctypes.util
import errno
import json
import os
import platform
import re
import shutil
import struct
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from cycleqd_merge.errors import InfrastructureError, TaskError
from cycleqd_merge.sandbox.boxes import open_box, run_once
from cycleqd_merge.sandbox.bubblewrap import Bubblewrap
from cycleqd_merge.sandbox.protocol import MIB, Limits, RootFs
from tests.security.attacks import Attack, cases

pytestmark = [
    pytest.mark.needs("bubblewrap"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="x86-64: the attacks below use its numbers"),
]
LIMITS = Limits(memory=1024 * MIB, disk=16 * MIB, output=MIB, processes=64, seconds=30.0)
REFUSED = "refused, in boxes of both kinds"
KILLED = "the process is killed"
BUFFER = "4096 zero bytes"
SHARED = [Attack("limits of the host's root", "queue a hundred thousand signals", "the box's own limit, nobody else's")]


def call(attack: str, *arguments: int | bytes | str) -> Attack:
    """A system call by its number and arguments."""
    return Attack("kernel", attack, REFUSED, arguments)


CALLS = [
    call("add a key", 248, b"user", b"sample", b"x", 1, -3),
    call("add a key to the user's keyring", 248, b"user", b"sample", b"x", 1, -4),
    call("request a key", 249, b"user", b"host", 0, 0),
    call("ask for the session keyring", 250, 0, -3, 1),
    call("join a session keyring", 250, 1, 0),
    call("set up io_uring", 425, 1, BUFFER),
    call("enter io_uring", 426, -1, 0, 0, 0, 0, 0),
    call("register with io_uring", 427, -1, 0, 0, 0),
    call("load a program into the kernel (bpf)", 321, 5, BUFFER, 128),
    call("count performance events", 298, BUFFER, 0, -1, -1, 0),
    call("handle page faults (userfaultfd)", 323, 1),
    call("watch files (inotify)", 253),
    call("watch files (inotify) with flags", 294, 0),
    call("open a message queue of POSIX", 240, b"x", 0o102, 0o600, 0),
    call("trace oneself", 101, 0, 0, 0, 0),
    call("trace the first process", 101, 0x4206, 1, 0, 0),
    call("read another process's memory", 310, 1, BUFFER, 0, BUFFER, 0, 0),
    call("write another process's memory", 311, 1, BUFFER, 0, BUFFER, 0, 0),
    call("advise about another process's memory", 440, -1, BUFFER, 0, 0, 0),
    call("reap another process's memory", 448, -1, 0),
    call("compare processes (kcmp)", 312, 1, 1, 0, 0, 0),
    call("take another process's file", 438, -1, 0, 0),
    call("clone3, whose flags are in memory", 435, BUFFER, 88),
    call("clone into a user namespace", 56, 0x10000011, 0, 0, 0, 0),
    call("clone into a network namespace, with garbage in the upper half", 56, (1 << 60) | 0x40000011, 0, 0, 0, 0),
    call("unshare a user namespace", 272, 0x10000000),
    call("unshare a mount namespace", 272, 0x20000),
    call("unshare a time namespace", 272, 0x80),
    call("unshare nothing", 272, 0),
    call("join a namespace", 308, -1, 0),
    call("open a packet socket", 41, 17, 3, 0),
    call("open a packet socket by its obsolete type", 41, 2, 10, 0),
    call("open a socket to the virtual machine's host", 41, 40, 1, 0),
    call("open a socket of the kernel's cryptography", 41, 38, 5, 0),
    call("open a socket of a family with garbage in the upper half", 41, (1 << 32) | 40, 1, 0),
    call("open a netlink socket of the packet filter", 41, 16, 3, 12),
    call("open a netlink socket of generic families", 41, 16, 3, 16),
    call("load a module by a protocol (SCTP)", 41, 2, 1, 132),
    call("load a module by a family (TIPC pair)", 53, 30, 1, 0, BUFFER),
    call("open a raw socket", 41, 2, 3, 255),
    call("mount", 165, b"x", b"/tmp", b"tmpfs", 0, 0),
    call("unmount", 166, b"/nothing", 0),
    call("pivot the root", 155, b"/nothing", b"/nothing"),
    call("open a tree of mounts", 428, -100, b"/tmp", 0),
    call("open a tree of mounts with attributes", 467, -100, b"/tmp", 0, 0, 0),
    call("move a mount", 429, -1, b"", -1, b"", 0),
    call("open a file system", 430, b"nothing", 0),
    call("configure a file system", 431, -1, 0, 0, 0, 0),
    call("mount a configured file system", 432, -1, 0, 0),
    call("pick a file system", 433, -100, b"/nothing", 0),
    call("set attributes of a mount", 442, -100, b"/nothing", 0, BUFFER, 32),
    call("ask about a mount", 457, 0, 0, 0, 0),
    call("list mounts", 458, 0, 0, 0, 0),
    call("name a file by its handle", 303, -100, b"/tmp", BUFFER, BUFFER, 0),
    call("open a file by its handle", 304, -1, BUFFER, 0),
    call("watch a file system (fanotify)", 300, 0x200, 0),
    call("create a file in memory", 319, b"x", 0),
    call("create a secret file in memory", 447, 0),
    call("create shared memory of System V", 29, 0, 400 << 20, 0o1600),
    call("create a queue of messages of System V", 68, 0, 0o1600),
    call("create semaphores of System V", 64, 0, 32000, 0o1600),
    call("attach data to a file, beyond the limit of the disk", 188, b"/tmp", b"user.a", BUFFER, 4096, 0),
    call("attach data to an open file", 190, 0, b"user.a", BUFFER, 4096, 0),
    call("place memory", 237, 0, 0, 0, 0, 0, 0),
    call("ask where memory is", 239, 0, 0, 0, 0, 0),
    call("move pages", 279, 0, 0, 0, 0, 0, 0),
    call("migrate pages", 256, 0, 0, 0, 0),
    call("remap pages of a file", 216, 0, 0, 0, 0, 0),
    call("load a kernel", 246, 0, 0, 0, 1 << 40),
    call("load a module", 313, -1, b"", 0),
    call("take part in quotas", 179, 0, 0, 0, 0),
    call("read the kernel's log", 103, 10, 0, 0),
    call("adjust the clock", 159, BUFFER),
    call("adjust a clock", 305, 0, BUFFER),
    call("use all ports", 172, 0),
    call("use a port", 173, 0, 1, 0),
    call("change the table of segments", 154, 0, BUFFER, 8),
    call("fix the addresses of memory", 135, 0x40000),
    call("become a 32-bit BSD", 135, 0x0006),
    call("type into a terminal", 16, 0, 0x5412, b"x"),
    call("type into a terminal, with garbage in the upper half", 16, 0, (1 << 32) | 0x5412, b"x"),
    call("set a line discipline", 16, 0, 0x5423, BUFFER),
    call("set up asynchronous input and output", 206, 1, BUFFER),
    call("ask for an obsolete file system type", 139, 3),
    call("a system call in the gap between the numbers", 400),
    call("a system call of the future", 471, 0, 0, 0, 0),
    call("a system call beyond all numbers", 0x3FFFFFFF),
]
DEADLY = [
    Attack("kernel", "a system call of x32", KILLED, "libc.syscall(0x40000000 + 39)"),
    Attack("kernel", "a forbidden system call of x32", KILLED, "libc.syscall(0x40000000 + 250, 0, -3, 1)"),
    Attack("kernel", "a system call of 32-bit x86", KILLED, "machine_code(bytes.fromhex('b814000000cd80c3'))"),
    Attack("kernel", "keyctl of 32-bit x86", KILLED, "machine_code(bytes.fromhex('b82001000031dbcd80c3'))"),
]
BOUNDED = "written files stay within the limit"
PLACES = [
    Attack("kernel", "fill every mount", BOUNDED, "mounts"),
    Attack("kernel", "fill /dev and what is mounted in it", BOUNDED, "/dev"),
    Attack("kernel", "fill what is mounted in /proc", BOUNDED, "/proc"),
    Attack("kernel", "fill unlinked files", BOUNDED, "unlinked"),
    Attack("kernel", "fill POSIX shared memory", BOUNDED, "shared"),
]
SEEN = "nothing of the host or of others is seen"
FILES = [
    Attack("kernel", f"read {path}", SEEN, path)
    for path in (
        "/proc/keys",
        "/proc/key-users",
        "/proc/kcore",
        "/proc/kmsg",
        "/proc/kallsyms",
        "/proc/timer_list",
        "/proc/interrupts",
        "/proc/sched_debug",
        "/proc/acpi",
        "/proc/scsi",
        "/proc/tty",
        "/proc/1/cmdline",
        "/proc/1/environ",
        "/proc/1/task/1/cmdline",
        "/proc/1/task/1/environ",
        "/sys/kernel",
        "/sys/firmware",
        "/dev/mem",
        "/dev/kvm",
        "/dev/vda",
    )
]
UNCHANGED = "no setting of the kernel can be opened for writing"
SETTINGS = [
    Attack("kernel", f"write to {path}", UNCHANGED, path)
    for path in ("/proc/sys", "/proc/pressure", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs", "/sys")
]
KEYS = [
    Attack("kernel", "read a key of the host's session", "not found, with and without the filter", "host"),
    Attack("kernel", "leave a key for the next sample", "not found, with and without the filter", "next"),
]
UNLOADED = [
    Attack("kernel", "a filter that cannot be loaded", "no box starts, and one line says why", 0),
    Attack("kernel", "a filter that is cut off", "no box starts, and one line says why", 100),
]
LIMITED = [
    Attack("kernel", "let the host handle crashes (core dumps)", "the limit that keeps them away stays", "CORE"),
    Attack("kernel", "get a real-time priority", "the limit stays at 0", "RTPRIO"),
    Attack("kernel", "get a higher priority than the host's programs", "the limit stays at 0", "NICE"),
]
PROCESSES = [
    Attack("kernel", "look for a process without the filter", "all have it, process 1 included", "unfiltered"),
    Attack("kernel", "look for open files of the host", "only standard input and output are open", "files"),
    Attack("kernel", "look for a process with more rights", "none can gain any", "privileged"),
]
ATTACKS = [*CALLS, *DEADLY, *PROCESSES, *LIMITED, *PLACES, *FILES, *SETTINGS, *KEYS, *UNLOADED]

PRELUDE = """
import ctypes, errno, json, mmap, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

def system_call(arguments):
    real = [ctypes.create_string_buffer(4096) if a == "4096 zero bytes" else a for a in arguments]
    real = [ctypes.c_long(a) if isinstance(a, int) else a for a in real]
    if libc.syscall(*real) >= 0:
        return "success"
    return errno.errorcode[ctypes.get_errno()]

def machine_code(code):
    memory = mmap.mmap(-1, 4096, prot=7)
    memory.write(code)
    ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))()

def in_child(action, *arguments):
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try: os.write(writing, str(action(*arguments)).encode())
        except BaseException as error: os.write(writing, repr(error).encode())
        os._exit(0)
    os.close(writing)
    said = b""
    _, status = os.waitpid(pid, 0)
    os.set_blocking(reading, False)
    try: said = os.read(reading, 1000)
    except BlockingIOError: pass
    os.close(reading)
    return f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else said.decode()
"""
FILL = """
import os, sys
held = []
def fill(folder, unlinked=False):
    written = 0
    for number in range(6):
        path = f"{folder}/attack-{len(held)}"
        try:
            file = open(path, "wb", 0)
            held.append(file)
            if unlinked: os.remove(path)
            while True: written += file.write(bytes(1 << 20))
        except OSError:  # no space, or a file at its own limit
            continue
    return written

mounted = [line.split()[4] for line in open("/proc/self/mountinfo")]
below = {"mounts": "/", "/dev": "/dev", "/proc": "/proc"}.get(sys.argv[1])
if below:
    places = [path for path in mounted if path.startswith(below) and os.path.isdir(path)]
else:
    places = ["/dev/shm", "/tmp"]
print(sum(fill(path, sys.argv[1] == "unlinked") for path in places))
"""
BOXES = ("code", "root")


def in_box(kind: str, program: str, *arguments: str, limits: Limits = LIMITS) -> str:
    """The output of a Python program in a box with or without a root file system."""
    provider = Bubblewrap()

    async def ran() -> bytes:
        if kind == "code":
            command = [*provider.python(), "-c", program, *arguments]
            return (await run_once(provider, command, limits=limits)).output
        async with open_box(provider, RootFs("default"), limits) as box:
            return (await box.run(["python3", "-c", program, *arguments])).output

    return asyncio.run(ran()).decode()


@pytest.fixture(scope="module")
def answers(own_root: RootFs) -> Mapping[str, Mapping[str, str]]:
    """Kind of box -> attack -> the kernel's answer."""
    given = {each.attack: each.given for each in CALLS}
    deadly = {each.attack: each.given for each in DEADLY}
    program = (
        f"{PRELUDE}\nanswers = {{name: in_child(system_call, given) for name, given in {given!r}.items()}}\n"
        f"answers |= {{name: in_child(eval, given, globals()) for name, given in {deadly!r}.items()}}\n"
        "print(json.dumps(answers))"
    )
    return {kind: json.loads(in_box(kind, program)) for kind in BOXES}


@pytest.mark.parametrize("case", cases(CALLS))
def test_a_system_call_is_refused(case: Attack, answers: Mapping[str, Mapping[str, str]]) -> None:
    for kind in BOXES:
        assert answers[kind][case.attack] in ("EPERM", "ENOSYS", "ENOTSUP"), kind


@pytest.mark.parametrize("case", cases(DEADLY))
def test_a_foreign_architecture_ends_the_process(case: Attack, answers: Mapping[str, Mapping[str, str]]) -> None:
    for kind in BOXES:
        assert answers[kind][case.attack] == "signal 31", kind


@pytest.mark.parametrize("case", cases(PROCESSES))
def test_no_process_of_a_box_is_freer(case: Attack, own_root: RootFs) -> None:
    program = """
import glob, os, sys
found = []
for status in glob.glob("/proc/[0-9]*/status"):
    lines = dict(line.split(":", 1) for line in open(status).read().splitlines())
    if sys.argv[1] == "unfiltered" and lines["Seccomp"].strip() != "2": found.append(status)
    if sys.argv[1] == "privileged" and lines["NoNewPrivs"].strip() != "1": found.append(status)
if sys.argv[1] == "files":
    found = [name for name in range(3, 1024) if os.path.exists(f"/proc/self/fd/{name}")]
print(found)
"""
    for kind in BOXES:
        assert in_box(kind, program, case.given) == "[]\n", kind


def test_no_key_is_left() -> None:
    def keys() -> set[str]:
        return {line.split()[0] for line in Path("/proc/keys").read_text().splitlines()}

    async def several() -> None:
        await asyncio.gather(*(run_once(Bubblewrap(), ["true"], limits=LIMITS) for _ in range(20)))

    before = keys()
    asyncio.run(several())
    new = keys() - before
    deadline = time.monotonic() + 10  # the kernel collects keys in the background
    while len(left := new & keys()) >= 10 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(left) < 10  # other tests may have boxes of their own at this time


@pytest.mark.parametrize("case", cases(LIMITED))
def test_a_limit_stays(case: Attack, own_root: RootFs) -> None:
    program = """
import os, resource, sys
name = getattr(resource, "RLIMIT_" + sys.argv[1])
for value in (0, 1, 20, resource.RLIM_INFINITY):
    for change in (resource.setrlimit, lambda name, both: resource.prlimit(os.getpid(), name, both)):
        try: change(name, (value, value))
        except (OSError, ValueError): pass
print(resource.getrlimit(name))
"""
    wanted = "(1, 1)" if case.given == "CORE" else "(0, 0)"
    for kind in BOXES:
        assert in_box(kind, program, case.given) == f"{wanted}\n", kind


@pytest.mark.parametrize("case", cases(PLACES))
def test_written_files_are_limited_together(case: Attack, own_root: RootFs) -> None:
    for kind in BOXES:
        assert int(in_box(kind, FILL, case.given)) <= LIMITS.disk, kind


@pytest.fixture(scope="module")
def entries(own_root: RootFs) -> Mapping[str, Mapping[str, Any]]:
    """Kind of box -> path -> what a program finds there: its content or names, and the paths it can write to."""
    program = """
import json, os, sys
def look(path):
    try: return os.listdir(path) if os.path.isdir(path) else open(path, "rb").read(100).decode(errors="replace")
    except OSError: return None
def writable(top):
    found = [top] if os.path.isfile(top) else []
    for folder, _, files in os.walk(top):
        found += [f"{folder}/{name}" for name in files]
    opened = []
    for path in found:
        try: os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK)); opened.append(path)
        except OSError: pass
    return opened
seen, settings = json.loads(sys.argv[1])
print(json.dumps({path: look(path) for path in seen} | {path: writable(path) for path in settings}))
"""
    paths = json.dumps([[each.given for each in FILES], [each.given for each in SETTINGS]])
    return {kind: json.loads(in_box(kind, program, paths)) for kind in BOXES}


@pytest.mark.parametrize("case", cases(FILES))
def test_the_hosts_kernel_shows_nothing(case: Attack, entries: Mapping[str, Mapping[str, Any]]) -> None:
    for kind in BOXES:
        assert not entries[kind][case.given], kind


@pytest.mark.parametrize("case", cases(SETTINGS))
def test_no_setting_can_be_written(case: Attack, entries: Mapping[str, Mapping[str, Any]]) -> None:
    for kind in BOXES:
        assert entries[kind][case.given] == [], kind


def key_program(name: str) -> str:
    """A program that looks for a key in all keyrings that it can, prints what it finds, and adds the key."""
    return f"""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
content = ctypes.create_string_buffer(100)
found = [libc.syscall(249, b"user", b"{name}", None, 0)]
found += [libc.syscall(250, 10, ctypes.c_long(ring), b"user", b"{name}", 0) for ring in (-3, -4, -5)]
for key in found:
    if key > 0 and libc.syscall(250, 11, ctypes.c_long(key), content, 100) > 0: print("read", content.value)
print("listed", "{name}" in open("/proc/keys").read())
for ring in (-3, -4, -5): libc.syscall(248, b"user", b"{name}", b"a sample's key", 14, ctypes.c_long(ring))
"""


@pytest.fixture
def host_key() -> Iterator[str]:
    """The name of a key in this process's session keyring, where only its possessor may read it."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    name = f"host-{id(libc)}"
    key = libc.syscall(248, b"user", name.encode(), b"the host's key", 14, ctypes.c_long(-3))
    assert key > 0, errno.errorcode[ctypes.get_errno()]
    yield name
    libc.syscall(250, 9, ctypes.c_long(key), ctypes.c_long(-3))  # unlink it


@pytest.mark.parametrize("filtered", [True, False])
@pytest.mark.parametrize("case", cases(KEYS))
def test_keys_stay_where_they_are(
    case: Attack, filtered: bool, host_key: str, own_root: RootFs, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not filtered:  # the keyring alone protects, too
        everything = struct.pack("=HBBI", 6, 0, 0, 0x7FFF0000)
        monkeypatch.setattr("cycleqd_merge.sandbox.seccomp.filter_program", lambda machine: everything)
    name = host_key if case.given == "host" else f"sample-{host_key}"
    for kind in (*BOXES, *BOXES):
        assert in_box(kind, key_program(name)) == "listed False\n", kind


@pytest.mark.parametrize("case", cases(UNLOADED))
def test_a_box_without_its_filter_does_not_start(case: Attack, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        fake = Path(folder, "bwrap")  # gives the real one another filter
        code = f"""#!{sys.executable}
import os, sys
fd = int(sys.argv[sys.argv.index("--seccomp") + 1])
content = os.read(fd, 65536)[: {case.given}]
reading, writing = os.pipe()
os.write(writing, content)
os.close(writing)
os.dup2(reading, fd)
os.execv("/usr/bin/bwrap", ["bwrap", *sys.argv[1:]])
"""
        fake.write_text(code)
        fake.chmod(0o755)
        broken = Bubblewrap(str(fake))
        with pytest.raises(TaskError) as error:
            broken.probe(RootFs())
        assert "\n" not in str(error.value)
        assert str(error.value).startswith("sandbox: bubblewrap does not work here: ")
        with pytest.raises(InfrastructureError):
            asyncio.run(run_once(broken, ["echo", "ready"], ready=b"ready\n"))


# ---- the program of the filter, by an interpreter of its own

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOWED, KILLING, PRETENDED = 0x7FFF0000, 0x80000000, 0x50000
NOT_PERMITTED, MISSING = 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
_REFUSED_NAMES = """
    mq_open inotify_init inotify_init1
    add_key request_key keyctl io_uring_setup io_uring_enter io_uring_register bpf perf_event_open userfaultfd ptrace
    process_vm_readv process_vm_writev process_madvise process_mrelease kcmp pidfd_getfd unshare setns mount umount2
    pivot_root open_tree move_mount fsopen fsconfig fsmount fspick mount_setattr name_to_handle_at open_by_handle_at
    kexec_load kexec_file_load init_module finit_module delete_module quotactl quotactl_fd swapon swapoff acct syslog
    reboot settimeofday adjtimex clock_settime clock_adjtime iopl ioperm fanotify_init fanotify_mark lookup_dcookie
    nfsservctl modify_ldt mbind set_mempolicy get_mempolicy set_mempolicy_home_node migrate_pages move_pages vhangup
    sethostname setdomainname clone3 memfd_create memfd_secret shmget msgget semget remap_file_pages io_setup io_submit
    uselib ustat sysfs _sysctl create_module get_kernel_syms query_module getpmsg putpmsg afs_syscall tuxcall security
    vserver setxattr lsetxattr fsetxattr
"""
CONDITIONAL = {
    "clone": (56, 220),
    "ioctl": (16, 29),
    "personality": (135, 92),
    "prlimit64": (302, 261),
    "setrlimit": (160, 164),
    "socket": (41, 198),
    "socketpair": (53, 199),
}
"""Name -> numbers on x86-64 and arm64."""


def decide(program: bytes, architecture: int, number: int, arguments: Sequence[int] = ()) -> int:
    """What the kernel returns for a system call, by the definition of classic BPF."""
    words = [value & (2**64 - 1) for value in [*arguments, *[0] * 6][:6]]
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, architecture, 0, *words)
    lines: list[tuple[int, int, int, int]] = list(struct.iter_unpack("=HBBI", program))
    at, value = 0, 0
    while True:
        code, yes, no, operand = lines[at]
        at += 1
        if code == 0x20:
            assert operand % 4 == 0
            (value,) = struct.unpack_from("<I", data, operand)
        elif code == 0x54:
            value &= operand
        elif code == 0x05:
            at += operand
        elif code in (0x15, 0x35):
            at += yes if (value == operand if code == 0x15 else value >= operand) else no
        elif code == 0x06:
            return operand
        else:
            raise AssertionError(f"unexpected instruction {code:#x}")


@pytest.fixture(params=ARCHITECTURES)
def machine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def program_of(machine: str) -> bytes:
    from cycleqd_merge.sandbox.seccomp import filter_program

    return filter_program(machine)


@pytest.fixture(scope="module")
def names() -> Mapping[str, Mapping[int, str]]:
    """Machine -> number -> name of every system call that libseccomp knows."""
    found = ctypes.util.find_library("seccomp")
    if found is None:
        pytest.skip("libseccomp: not installed")
    library = ctypes.CDLL(found)
    library.seccomp_syscall_resolve_num_arch.restype = ctypes.c_char_p
    resolved = {
        machine: {n: library.seccomp_syscall_resolve_num_arch(token, n) for n in range(1024)}
        for machine, token in ARCHITECTURES.items()
    }
    return {machine: {n: name.decode() for n, name in each.items() if name} for machine, each in resolved.items()}


def test_every_number_is_decided_by_its_name(machine: str, names: Mapping[str, Mapping[int, str]]) -> None:
    program, known = program_of(machine), names[machine]
    assert {"read", "execve", "clone", "keyctl", "pidfd_getfd"} <= set(known.values())
    for number, name in known.items():
        decision = decide(program, ARCHITECTURES[machine], number)
        if name in _REFUSED_NAMES.split():
            assert decision in (NOT_PERMITTED, MISSING, 0x50000 | errno.EOPNOTSUPP), name
        elif name in CONDITIONAL:
            assert CONDITIONAL[name][list(ARCHITECTURES).index(machine)] == number
        else:
            assert decision == ALLOWED, name


NEWER = {457: MISSING, 458: MISSING, 460: NOT_PERMITTED, 463: 0x50000 | errno.EOPNOTSUPP, 467: NOT_PERMITTED}
"""statmount, listmount, lsm_set_self_attr, setxattrat and open_tree_attr, which libseccomp does not know yet."""


def test_newer_system_calls_are_decided(machine: str) -> None:
    program = program_of(machine)
    for number in range(457, 470):
        assert decide(program, ARCHITECTURES[machine], number) == NEWER.get(number, ALLOWED), number


def test_numbers_without_a_name_are_missing(machine: str, names: Mapping[str, Mapping[int, str]]) -> None:
    program = program_of(machine)
    for number in [n for n in range(295, 424) if n not in names[machine]] + [*range(470, 2048), 2**30 - 1]:
        assert decide(program, ARCHITECTURES[machine], number) == MISSING, number


def test_foreign_architectures_are_killed(machine: str) -> None:
    program = program_of(machine)
    for architecture in (0x40000003, 0x40000028, 0xC000003E, 0xC00000B7, 0xC00000F3, 0):
        wanted = ALLOWED if architecture == ARCHITECTURES[machine] else KILLING
        assert decide(program, architecture, {"x86_64": 39, "aarch64": 172}[machine]) == wanted  # getpid
    if machine == "x86_64":
        assert {decide(program, 0xC000003E, 2**30 + n) for n in (*range(600), 2**30 - 1, 2**31 - 1)} == {KILLING}
        assert decide(program, 0xC000003E, -1) == MISSING


ARGUMENTS = [
    ("clone", (0x3D0F00,), True),  # a thread, as glibc starts it
    ("clone", (0x01200011,), True),  # fork
    *(("clone", (flag | 17,), False) for flag in (1 << 17, 1 << 25, 1 << 26, 1 << 27, 1 << 28, 1 << 29, 1 << 30)),
    ("clone", (0xFFFFFFFF00000011,), True),  # the kernel ignores the upper half
    ("personality", (0,), True),
    ("personality", (0xFFFFFFFF,), True),
    ("personality", (0x20008,), True),
    *(("personality", (value,), False) for value in (0x40000, 0x400000, 0x100000, 0x8000000, 6, 1)),
    ("ioctl", (0, 0x5401), True),
    ("ioctl", (0, 0x5413), True),
    *(("ioctl", (0, value), False) for value in (0x5412, 0x541C, 0x541D, 0x5423, 0x100005412)),
    ("setrlimit", (7, 0x1234), True),
    ("setrlimit", (4, 0x1234), False),
    ("setrlimit", ((1 << 32) | 4, 0x1234), False),
    ("prlimit64", (0, 4, 0, 0x1234), True),
    ("prlimit64", (0, 6, 0x1234, 0), True),
    ("prlimit64", (0, 4, 0x1234, 0), False),
    ("prlimit64", (0, 4, 1 << 32, 0), False),
    ("socketpair", (1, 1, 0), True),
    *(("socketpair", (family, 1, 0), False) for family in (2, 16, 30, 38, 40)),
    ("socket", (1, 2, 0), True),
    ("socket", (1, 0x80801, 0), True),
    *(("socket", (family, 1 | 0x80000, protocol), True) for family in (2, 10) for protocol in (0, 6)),
    *(("socket", (family, 2, protocol), True) for family in (2, 10) for protocol in (0, 1, 17, 58)),
    *(("socket", (family, 1, protocol), False) for family in (2, 10) for protocol in (33, 132, 136, 262, -1)),
    *(("socket", (2, kind, 0), False) for kind in (0, 3, 4, 5, 6, 10, 10 | 0x80000)),
    *(("socket", (16, 3 | 0x80000, protocol), True) for protocol in (0, 4, 9)),
    *(("socket", (16, 3, protocol), False) for protocol in (1, 2, 6, 12, 15, 16, 20, 21, -1)),
    *(("socket", (family, 1, 0), False) for family in (0, *range(3, 10), *range(11, 16), *range(17, 64), -1)),
    ("socket", ((1 << 32) | 40, 1, 0), False),
]


@pytest.mark.parametrize(("name", "arguments", "allowed"), ARGUMENTS)
def test_arguments_decide(name: str, arguments: tuple[int, ...], allowed: bool, machine: str) -> None:
    number = CONDITIONAL[name][list(ARCHITECTURES).index(machine)]
    wanted = ALLOWED if allowed else PRETENDED if "limit" in name else NOT_PERMITTED
    assert decide(program_of(machine), ARCHITECTURES[machine], number, arguments) == wanted


# ---- what still works


def test_numpy_compilers_and_processes_work_in_a_box_of_code() -> None:
    program = """
import os
os.environ["OPENBLAS_NUM_THREADS"] = "2"
import numpy as np
ones = np.ones((300, 300))
print((ones @ ones).sum(), len(os.listdir("/proc/self/task")))
import compileall, json, multiprocessing, shutil, subprocess
from multiprocessing import shared_memory
shutil.copytree(os.path.dirname(json.__file__), "/tmp/json")
print(compileall.compile_dir("/tmp/json", quiet=1))
memory = shared_memory.SharedMemory(create=True, size=4096)
memory.close(); memory.unlink()
fork = multiprocessing.get_context("fork")
with fork.Pool(2) as pool: print(pool.map(abs, [-1, -2]), flush=True)
subprocess.run("sleep 0.1 & jobs | cut -c7-13; wait; echo waited", shell=True, executable="/bin/bash")
"""
    wanted = "27000000.0 2\nTrue\n[1, 2]\nRunning\nwaited\n"
    assert in_box("code", program) == wanted


def test_usual_commands_work_in_a_box_with_a_root_file_system(own_root: RootFs) -> None:
    commands = {
        "sleep 0.2 & jobs | cut -c7-13; wait; echo waited": "Running\nwaited\n",
        "useradd -m jack && su - jack -c whoami && sudo -u jack whoami": "jack\njack\n",
        "apt-get install tree >/dev/null 2>&1; dpkg -s tree | grep Status": "Status: install ok installed\n",
        "echo 'int main(void){puts(\"hi\");}' > a.c; gcc -include stdio.h a.c -o a && ./a": "hi\n",
        "ps -eo comm= | grep -c bash; ip -o link | cut -d: -f2; ss -tln | wc -l": "1\n lo\n1\n",
        "python3 -m compileall -q /usr/lib/python3/dist-packages; echo $?": "0\n",
        "echo x > /dev/null; head -c 3 /dev/zero | wc -c": "3\n",
        "script -qc 'echo pty' /dev/null < /dev/null | tr -d '\\r'": "pty\n",
        "ulimit -c 0; ulimit -n 100; ulimit -n": "100\n",
        'python3 -c "from multiprocessing import Pool; print(Pool(2).map(abs, [-1]))"': "[1]\n",
        "cp -a /etc/skel x; cp -p a.c b.c; tar -cf x.tar x && tar -xpf x.tar; echo $?": "0\n",
        "su - jack -c 'echo mine > /dev/shm/mine; cat /dev/shm/mine'": "mine\n",
    }

    async def typed() -> dict[str, str]:
        async with open_box(Bubblewrap(), own_root, LIMITS) as box:
            return {command: (await box.shell(command)).output.decode() for command in commands}

    assert asyncio.run(typed()) == commands


_QUEUE = """
import ctypes, os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [40])
count = 0
while ctypes.CDLL(None).sigqueue(os.getpid(), 40, None) == 0: count += 1
print(count < 2000, flush=True)
signal.pause()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="a box of another user shares that user's limits")
@pytest.mark.parametrize("attack", cases(SHARED))
def test_boxes_use_up_nothing_of_root(attack: Attack, own_root: RootFs) -> None:
    queued = _queued()

    async def hold() -> tuple[str, int]:
        async with open_box(Bubblewrap(), own_root, LIMITS) as box:
            script = f"python3 -c '{_QUEUE}' > /tmp/out & while ! test -s /tmp/out; do sleep 0.1; done; cat /tmp/out"
            output = (await box.run(["sh", "-c", script])).output.decode()
            return output, _queued()

    output, while_held = asyncio.run(hold())
    assert output == "True\n"
    assert while_held < queued + 500  # of 1024 that the box holds


def _queued() -> int:
    """Signals that are queued for processes of this user."""
    found = re.search(r"SigQ:\s*(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])


@pytest.mark.parametrize("without_perl", [False, True])
def test_programs_start_with_the_usual_signals(without_perl: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from cycleqd_merge.sandbox import keyring

    keyring.new_keyring_prefix.cache_clear()
    if without_perl:
        monkeypatch.setattr(shutil, "which", lambda name: None)
    prefix = keyring.new_keyring_prefix()
    keyring.new_keyring_prefix.cache_clear()
    monkeypatch.undo()
    assert (prefix[0] == "perl") is not without_perl
    monkeypatch.setattr("cycleqd_merge.sandbox.bubblewrap.new_keyring_prefix", lambda: prefix)
    command = ["sh", "-c", "grep SigIgn /proc/self/status"]
    output = asyncio.run(run_once(Bubblewrap(), command, limits=LIMITS)).output
    assert output == b"SigIgn:\t0000000000000000\n"
