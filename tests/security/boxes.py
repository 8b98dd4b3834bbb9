"""Hostile programs, what they leave on the host, and a process that runs them, to be killed or to have fewer rights.

`python -m tests.security.boxes MARK SECONDS` runs the programs of `PROGRAMS`, all at once, each in a box.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
import time
from pathlib import Path

from cycleqd_merge.sandbox.boxes import run_once
from cycleqd_merge.sandbox.bubblewrap import Bubblewrap
from cycleqd_merge.sandbox.protocol import MIB, Limits

PRELUDE = """
import ctypes, os, resource, signal, socket, subprocess, sys, threading, time
libc = ctypes.CDLL(None)
libc.prctl(15, b"MARK", 0, 0, 0)  # the name that the host counts

def forever():
    while True:
        try: time.sleep(100)
        except BaseException: pass

def child(work=forever):
    if os.fork() == 0:
        try: work()
        except BaseException: pass
        os._exit(0)

def orphan(work=forever):
    def inner():
        os.setsid()
        child(work)
    child(inner)
    os.wait()

def unarmed():
    libc.prctl(1, 0, 0, 0, 0)

def closed():
    os.closerange(0, 1024)

def deaf():
    for number in set(range(1, 65)) - {9, 19, 32, 33}:
        signal.signal(number, signal.SIG_IGN)

def spread():
    while True:
        try: os.fork()
        except OSError: pass
"""

PROGRAMS = {
    "disarms its death with the parent": "unarmed(); forever()",
    "disarms its death with the parent and closes its pipes": "unarmed(); closed(); forever()",
    "leaves an orphan that is unarmed, with pipes closed": "orphan(lambda: (unarmed(), closed(), forever()))",
    "leaves an orphan that keeps the pipes": "orphan(lambda: (unarmed(), forever()))",
    "leaves an orphan and never ends": "orphan(lambda: (unarmed(), closed(), forever())); closed(); forever()",
    "leaves a program with a session of its own": "subprocess.Popen(['sleep', '1000'], start_new_session=True)",
    "ignores all signals": "deaf(); child(); forever()",
    "bombs with forks": "spread()",
    "bombs with forks that ignore signals in sessions of their own": "deaf()\nwhile True:\n"
    "    try:\n        if os.fork() == 0: os.setsid()\n    except OSError: pass",
    "stops all its processes": "child(); child(); os.kill(-1, signal.SIGSTOP); os.kill(0, signal.SIGSTOP); forever()",
    "stops itself with the pipes closed": "unarmed(); closed(); os.kill(os.getpid(), signal.SIGSTOP); forever()",
    "traces process 1": "libc.ptrace(16, 1, 0, 0); forever()",
    "traces process 1 and closes its pipes": "libc.ptrace(0x4206, 1, 0, 0); unarmed(); closed(); forever()",
    "holds its children by tracing": "def traced():\n    libc.ptrace(0, 0, 0, 0); os.kill(os.getpid(), 19); forever()\n"
    "child(traced); child(traced); forever()",
    "signals process 1": "for number in range(65):\n    try: os.kill(1, number)\n    except OSError: pass\nforever()",
    "writes over the memory of process 1": """
try:
    memory = open("/proc/1/mem", "r+b", 0)
    for line in open("/proc/1/maps"):
        first, _, rest = line.partition("-")
        if " r-xp " in line and "vdso" not in line:
            memory.seek(int(first, 16)); memory.write(bytes(int(rest.split()[0], 16) - int(first, 16)))
except OSError: pass
unarmed(); closed(); forever()""",
    "takes a descriptor of process 1": "handle = libc.syscall(434, 1, 0)\nfor number in range(64):\n"
    "    stolen = libc.syscall(438, handle, number, 0)\n    if stolen > 2: libc.write(stolen, b'\\1' + bytes(7), 8)\n"
    "forever()",
    "limits process 1": "libc.prlimit(1, 0, (ctypes.c_ulong * 2)(0, 0), None); libc.setpriority(0, 1, 19); forever()",
    "floods the output from an orphan": "orphan(lambda: [os.write(1, bytes(65536)) for _ in iter(int, 1)]); forever()",
    "floods the errors": "while True: os.write(2, bytes(65536))",
    "fills the pipes and closes the input": "os.set_blocking(1, False)\n"
    "try:\n    while True: os.write(1, bytes(4096))\nexcept BlockingIOError: pass\nos.close(0); unarmed(); forever()",
    "keeps the pipes in flight": """
import array
one, other = socket.socketpair()
held = array.array("i", [0, 1, 2, one.fileno(), other.fileno()])
one.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, held)])
other.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, held)])
os._exit(0)""",
    "waits for a child that shares its memory": "if libc.vfork() == 0: libc.sleep(1000)\nforever()",
    "starts threads that never end": "for _ in range(20): threading.Thread(target=forever).start()",
    "keeps shared memory and queues": "libc.shmget(7, 1 << 20, 0o1666); libc.msgget(7, 0o1666)\n"
    "libc.semget(7, 9, 0o1666); os.memfd_create('MARK'); forever()",
    "takes all memory in many processes": "for _ in range(5): os.fork()\nheld = bytearray(90 << 20)\nforever()",
    "takes all memory in files": "while True:\n    with open('/tmp/MARK', 'ab') as file: file.write(bytes(1 << 20))",
    "writes a program that starts itself": "open('/tmp/x', 'w').write('#!/bin/sh\\n/tmp/x & exec /tmp/x\\n')\n"
    "os.chmod('/tmp/x', 0o755); os.execv('/bin/sh', ['sh', '/tmp/x'])",
}
"""What a hostile program does -> its text, after `PRELUDE`."""


COMMANDS = {
    "leaves a shell in the background": "exec -a x sh -c 'while :; do sleep 1; done' &",
    "leaves a program with a session of its own": "PYTHON 'orphan(lambda: (unarmed(), closed(), forever()))'",
    "leaves a program of another user": "chmod 755 /root; useradd jack; "
    "su jack -c \"nohup sleep 1000 & trap '' HUP; setsid sleep 1000\" & sleep 0.3",
    "keeps the agent's pipes": "for n in 1 2; do sleep 1000 > /proc/2/fd/$n 2>&1 & done; "
    "setsid sleep 1000 < /proc/2/fd/0 &",
    "stops the agent": "kill -STOP 2",
    "kills the agent": "PYTHON 'orphan(lambda: (unarmed(), deaf(), forever()))'; kill -9 2",
    "kills everything": "setsid sleep 1000 & kill -9 -1",
    "traces the agent": "PYTHON 'unarmed(); libc.ptrace(16, 2, 0, 0); forever()' & sleep 0.3",
    "traces process 1": "PYTHON 'unarmed(); libc.ptrace(16, 1, 0, 0); forever()' & sleep 0.3",
    "signals process 1": "for n in $(seq 64); do kill -$n 1; done",
    "bombs with forks": ":(){ :|:& };:",
    "bombs with forks as root and others": "for n in 1 2 3; do useradd u$n; su u$n -c ':(){ :|:& };:' & done; "
    "sleep 0.3",
    "takes all memory": "for n in 1 2 3 4 5 6; do PYTHON 'held = bytearray(90 << 20); forever()' & done; sleep 0.4",
    "replaces the agent's Python": "cp /bin/sleep /usr/bin/python3; rm -rf /usr/lib/python3*; setsid sleep 1000 &",
    "floods": "cat /dev/zero",
}
"""What a hostile root of a box does -> its command; PYTHON runs a text after the prelude of hostile programs."""


def program_of(text: str, mark: str) -> str:
    """A program that begins with `PRELUDE`, and whose processes carry a name, of at most 15 characters."""
    return f"{PRELUDE}\n{text}\n".replace("MARK", mark)


def command_of(name: str, mark: str) -> str:
    """A command of a hostile root, whose Python processes carry a name."""
    prelude = base64.b64encode(program_of("", mark).encode()).decode()
    start = f"python3 -c 'import base64, sys; exec(base64.b64decode(\"{prelude}\")); exec(sys.argv[1])'"
    return COMMANDS[name].replace("PYTHON", start)


def marked(mark: str) -> list[int]:
    """The processes of this host that carry a name."""
    return [pid for pid, comm in _each("comm") if comm.strip() == mark]


def in_groups(owner: int) -> list[int]:
    """The processes of this host that are in a control group of a process's boxes."""
    return [pid for pid, groups in _each("cgroup") if f"/cycleqd-{owner}-" in groups]


def groups_of(owner: int) -> list[Path]:
    """The control groups of a process's boxes."""
    return [Path(folder) for folder, _, _ in os.walk("/sys/fs/cgroup") if f"/cycleqd-{owner}-" in folder]


def _each(file: str) -> list[tuple[int, str]]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                found.append((int(entry), Path("/proc", entry, file).read_text(errors="replace")))
            except OSError:
                continue
    return found


async def _run(name: str, mark: str, seconds: float) -> float:
    limits = Limits(memory=128 * MIB, disk=16 * MIB, output=100_000, processes=32, seconds=seconds)
    program = f"print('ready', flush=True)\n{program_of(PROGRAMS[name], mark)}"
    start = time.monotonic()
    line = ["python3", "-I", "-c", "import sys; exec(sys.stdin.read())"]  # sent as tasks send programs
    await run_once(Bubblewrap(), line, program.encode(), limits, ready=b"ready\n")
    return time.monotonic() - start


async def _run_all(mark: str, seconds: float) -> dict[str, float]:
    names = list(PROGRAMS)
    return dict(zip(names, await asyncio.gather(*(_run(name, mark, seconds) for name in names)), strict=True))


if __name__ == "__main__":
    json.dump(asyncio.run(_run_all(sys.argv[1], float(sys.argv[2]))), sys.stdout)
