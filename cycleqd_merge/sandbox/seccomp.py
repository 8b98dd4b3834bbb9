"""The filter of system calls in boxes: a table of what programs do not need, and its program for the kernel.

Boxes share the host's kernel. The filter keeps hostile programs away from its rarely used parts, in which most of its
vulnerabilities are found. It answers with an error; a system call of a foreign architecture ends the process. A system
call that is newer than the table does not exist in a box.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import platform
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""Machine -> its number in the kernel's data (linux/audit.h). The table's columns have the same order."""
_EPERM = """
add_key 248 217             keys are not confined to namespaces
request_key 249 218
keyctl 250 219
io_uring_setup 425 425      a second interface to most other calls, unseen by this filter
io_uring_enter 426 426
io_uring_register 427 427
bpf 321 280                 programs in the kernel, and its tracing
perf_event_open 298 241
userfaultfd 323 282
lookup_dcookie 212 18
ptrace 101 117              other processes
process_vm_readv 310 270
process_vm_writev 311 271
process_madvise 440 440
process_mrelease 448 448
kcmp 312 272
pidfd_getfd 438 438
unshare 272 97              namespaces; `clone` below
setns 308 268
mount 165 40                mounts
umount2 166 39
pivot_root 155 41
open_tree 428 428
open_tree_attr 467 467
move_mount 429 429
fsopen 430 430
fsconfig 431 431
fsmount 432 432
fspick 433 433
mount_setattr 442 442
name_to_handle_at 303 264   files without a path
open_by_handle_at 304 265
fanotify_init 300 262
fanotify_mark 301 263
mbind 237 235               placement of memory
set_mempolicy 238 237
get_mempolicy 239 236
set_mempolicy_home_node 450 450
migrate_pages 256 238
move_pages 279 239
remap_file_pages 216 234
kexec_load 246 104          the host itself
kexec_file_load 320 294
init_module 175 105
finit_module 313 273
delete_module 176 106
reboot 169 142
swapon 167 224
swapoff 168 225
acct 163 89
quotactl 179 60
quotactl_fd 443 443
syslog 103 116
vhangup 153 58
sethostname 170 161
setdomainname 171 162
settimeofday 164 170
adjtimex 159 171
clock_settime 227 112
clock_adjtime 305 266
iopl 172 -
ioperm 173 -
modify_ldt 154 -
lsm_set_self_attr 460 460
"""
"""Refused as without the right to it. Each line: name, numbers on x86-64 and arm64, and why (for those that follow)."""
_ENOSYS = """
clone3 435 435              its flags are in memory, where a filter cannot see them; programs then call `clone`
memfd_create 319 279        memory that belongs to no process and no file system, without a limit of its own
memfd_secret 447 447
shmget 29 194
msgget 68 186
semget 64 190
io_setup 206 0              limited on the whole host
io_submit 209 2
mq_open 240 180             limited per user of the host, whom all boxes may share
inotify_init 253 -
inotify_init1 294 26
statmount 457 457           programs then read /proc/self/mountinfo
listmount 458 458
uselib 134 -                obsolete
ustat 136 -
sysfs 139 -
_sysctl 156 -
create_module 174 -
get_kernel_syms 177 -
query_module 178 -
nfsservctl 180 42
getpmsg 181 -
putpmsg 182 -
afs_syscall 183 -
tuxcall 184 -
security 185 -
vserver 236 -
"""
"""Answered as by a kernel that does not have them, because programs then do without."""
_EOPNOTSUPP = """
setxattr 188 5              does not count towards the size of a file system
lsetxattr 189 6
fsetxattr 190 7
setxattrat 463 463
"""
"""Answered as by a file system that does not have them."""
_TABLES = {errno.EPERM: _EPERM, errno.ENOSYS: _ENOSYS, errno.EOPNOTSUPP: _EOPNOTSUPP}
_NEWEST = 469  # numbers above, and those that no kernel up to Linux 6.18 uses, answer ENOSYS
_UNUSED = {"x86_64": (335, 423), "aarch64": (295, 423)}  # numbers from 424 on are common to all architectures


@dataclass(frozen=True)
class Check:
    """A condition on half of an argument.

    argument: its index. values: those that fulfil it. mask: the bits that count. wanted: False reverses it. upper:
    its upper half, which the kernel ignores where an argument is not a pointer or size.
    """

    argument: int
    values: tuple[int, ...]
    mask: int = 0xFFFFFFFF
    wanted: bool = True
    upper: bool = False


@dataclass(frozen=True)
class CallRule:
    """A system call that is allowed if all checks of one of its cases hold, else answered by an error.

    numbers: on x86-64 and arm64. answer: the error's number; 0 pretends success.
    """

    name: str
    numbers: tuple[int, int]
    cases: tuple[tuple[Check, ...], ...]
    answer: int = errno.EPERM


_DUMPS = 4  # RLIMIT_CORE: its value keeps away the host's handler of crashes
_UNIX, _INET, _INET6, _NETLINK = 1, 2, 10, 16
_NAMESPACES = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET
_TERMINAL_INPUT = (0x5412, 0x541C, 0x541D, 0x5423)  # TIOCSTI, TIOCLINUX, TIOCCONS and TIOCSETD
_RULES = (
    CallRule("clone", (56, 220), ((Check(0, (0,), mask=_NAMESPACES),),)),
    CallRule("ioctl", (16, 29), ((Check(1, _TERMINAL_INPUT, wanted=False),),)),
    # Linux, with and without UNAME26 and PER_LINUX32, and the question
    CallRule("personality", (135, 92), ((Check(0, (0, 8, 0x20000, 0x20008, 0xFFFFFFFF)),),)),
    CallRule("setrlimit", (160, 164), ((Check(0, (_DUMPS,), wanted=False),),), answer=0),
    CallRule(
        "prlimit64",
        (302, 261),
        ((Check(1, (_DUMPS,), wanted=False),), (Check(2, (0,)), Check(2, (0,), upper=True))),  # no new limit
        answer=0,
    ),
    CallRule("socketpair", (53, 199), ((Check(0, (_UNIX,)),),)),
    CallRule(
        "socket",
        (41, 198),
        (
            (Check(0, (_UNIX,)),),
            # streams and datagrams (SOCK_PACKET, 10, is a packet socket) of TCP, UDP and ping: others load modules
            (Check(0, (_INET, _INET6)), Check(1, (1, 2), mask=0xF), Check(2, (0, 1, 6, 17, 58))),
            # routes (`ip`), sockets (`ss`) and the audit log (PAM)
            (Check(0, (_NETLINK,)), Check(2, (0, 4, 9))),
        ),
    ),
)

_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP, _AND, _RETURN = 0x20, 0x15, 0x35, 0x05, 0x54, 0x06  # linux/bpf_common.h
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data; the lower half of an argument is first
_KILL, _ALLOW, _ERROR = 0x80000000, 0x7FFF0000, 0x00050000
_X32 = 0x40000000  # a bit of numbers on x86-64
_NO_CALL = 0xFFFFFFFF  # the number -1, which no kernel implements
Instruction = tuple[int, int, int, int]
"""Code, steps to jump over if true, if false, and operand."""


def supported(machine: str) -> bool:
    """Whether there is a filter for a machine, named as by `platform.machine`."""
    return machine in _ARCHITECTURES


@functools.cache
def filter_program(machine: str) -> bytes:
    """The filter in the kernel's format, an array of `struct sock_filter`. machine: as named by `platform.machine`."""
    column = list(_ARCHITECTURES).index(machine)
    lines: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_EQUAL, 1, 0, _ARCHITECTURES[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":
        lines += [(_JUMP_EQUAL, 2, 0, _NO_CALL), (_JUMP_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _KILL)]
    missing = (_RETURN, 0, 0, _ERROR | errno.ENOSYS)
    first, last = _UNUSED[machine]
    lines += [(_JUMP_AT_LEAST, 0, 1, _NEWEST + 1), missing]
    lines += [(_JUMP_AT_LEAST, 0, 2, first), (_JUMP_AT_LEAST, 1, 0, last + 1), missing]
    for answer, table in _TABLES.items():
        for number in _numbers(table)[machine].values():
            lines += _if_equal(number, [(_RETURN, 0, 0, _ERROR | answer)])
    for rule in _RULES:
        lines += _if_equal(rule.numbers[column], _decision(rule))
    lines.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


def _numbers(table: str) -> Mapping[str, Mapping[str, int]]:
    """Machine -> name -> number, for all system calls of a table that the machine has."""
    rows = [line.split()[:3] for line in table.strip().splitlines()]
    return {
        machine: {row[0]: int(row[1 + column]) for row in rows if row[1 + column] != "-"}
        for column, machine in enumerate(_ARCHITECTURES)
    }


def _if_equal(value: int, then: Sequence[Instruction]) -> list[Instruction]:
    """Instructions that run `then`, which returns, if the loaded value is this one."""
    return [(_JUMP_EQUAL, 0, len(then), value), *then]


def _decision(rule: CallRule) -> list[Instruction]:
    """Instructions that return a rule's decision."""
    lines: list[Instruction] = []
    for case in rule.cases:
        body: list[Instruction] = [(_RETURN, 0, 0, _ALLOW)]
        for check in reversed(case):
            body = [*_test(check, len(body)), *body]
        lines += body
    return [*lines, (_RETURN, 0, 0, _ERROR | rule.answer)]


def _test(check: Check, skipped: int) -> list[Instruction]:
    """Instructions that continue after themselves if a check holds, else `skipped` instructions later."""
    half = _ARGUMENTS + 8 * check.argument + 4 * check.upper
    lines: list[Instruction] = [(_LOAD, 0, 0, half), (_AND, 0, 0, check.mask)]
    count = len(check.values)
    lines += [(_JUMP_EQUAL, count - index, 0, value) for index, value in enumerate(check.values)]
    found, not_found = (0, skipped) if check.wanted else (skipped, 0)
    return [*lines, (_JUMP, 0, 0, not_found + 1), (_JUMP, 0, 0, found)]


@contextlib.contextmanager
def filter_file() -> Iterator[int]:
    """A file descriptor that the filter of this machine is read from, once."""
    reading, writing = os.pipe()
    try:
        with open(writing, "wb") as file:
            file.write(filter_program(platform.machine()))  # less than a pipe holds
        yield reading
    finally:
        os.close(reading)
