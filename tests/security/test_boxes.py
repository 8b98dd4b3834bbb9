"""Nothing outlives its box: hostile programs in real boxes, also without control groups, without root, and killed runs."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from cycleqd_merge.sandbox.boxes import open_box, run_once
from cycleqd_merge.sandbox.bubblewrap import Bubblewrap
from cycleqd_merge.sandbox.cgroups import parent_cgroups
from cycleqd_merge.sandbox.protocol import MIB, BoxLost, Limits, ProcessResult, RootFs
from tests.security.attacks import Attack, cases
from tests.security.boxes import PROGRAMS, groups_of, hostile, in_groups, marked
from tests.tasks.code.test_task import open_code, scores

MARK = f"cq{os.getpid()}"
LIMITS = Limits(memory=128 * MIB, disk=16 * MIB, output=100_000, processes=32, seconds=0.5)
SHELL = Limits(memory=256 * MIB, disk=32 * MIB, output=20_000, processes=64, seconds=0.7)
ROOT = Path(__file__).parents[2]
SOON = 8.0
"""Seconds that are plenty for a box to end on a busy machine; before, it took a minute, or for ever."""

COMMANDS = {
    "leaves a shell in the background": "exec -a x sh -c 'while :; do sleep 1; done' &",
    "leaves a program with a session of its own": "PYTHON 'orphan(lambda: (unarmed(), closed(), forever()))'",
    "leaves a program of another user": "chmod 755 /root; useradd jack; su jack -c \"PYTHON 'orphan(deaf)'\" & sleep 0.3",
    "keeps the agent's pipes": "for n in 1 2; do sleep 1000 > /proc/2/fd/$n 2>&1 & done; setsid sleep 1000 < /proc/2/fd/0 &",
    "stops the agent": "kill -STOP 2",
    "kills the agent": "PYTHON 'orphan(lambda: (unarmed(), deaf(), forever()))'; kill -9 2",
    "kills everything": "setsid sleep 1000 & kill -9 -1",
    "traces the agent": "PYTHON 'unarmed(); libc.ptrace(16, 2, 0, 0); forever()' & sleep 0.3",
    "traces process 1": "PYTHON 'unarmed(); libc.ptrace(16, 1, 0, 0); forever()' & sleep 0.3",
    "signals process 1": "for n in $(seq 64); do kill -$n 1; done",
    "bombs with forks": ":(){ :|:& };:",
    "bombs with forks as root and others": "for n in 1 2 3; do useradd u$n; su u$n -c ':(){ :|:& };:' & done; sleep 0.3",
    "takes all memory": "for n in 1 2 3 4 5 6; do PYTHON 'held = bytearray(90 << 20); forever()' & done; sleep 0.4",
    "replaces the agent's Python": "cp /bin/sleep /usr/bin/python3; rm -rf /usr/lib/python3*; setsid sleep 1000 &",
    "floods": "cat /dev/zero",
}
"""What a hostile root of a box does -> its command; PYTHON runs a text after the prelude of hostile programs."""

ENDLESS = {
    "at exit": "import atexit, time\natexit.register(time.sleep, 1000)",
    "in a thread": "import threading, time\nthreading.Thread(target=time.sleep, args=(1000,)).start()",
    "in a thread with the output closed": "import os, threading, time\n"
    "threading.Thread(target=lambda: (time.sleep(0.2), os.closerange(0, 64), time.sleep(1000))).start()",
    "for a child process": "import multiprocessing, time\n"
    "multiprocessing.get_context('fork').Process(target=time.sleep, args=(1000,)).start()",
    "for a child process at exit": "import atexit, os, time\npid = os.fork()\n"
    "if pid == 0:\n    time.sleep(1000)\natexit.register(os.waitpid, pid, 0)",
    "while objects are deleted": "import time\nclass Last:\n    def __del__(self, sleep=time.sleep): sleep(1000)\n"
    "begun.append(Last())",
    "stopped": "import atexit, os\natexit.register(os.kill, os.getpid(), 19)",
    "ignoring signals in a loop": "import atexit, signal\ndef loop():\n    while True: pass\natexit.register(loop)",
}

_OPEN_HOME = (
    "mount -t tmpfs x /mnt && mkdir -m 755 /mnt/u /mnt/w && "
    'mount -t overlay -o lowerdir="$HOME_OF_ROOT",upperdir=/mnt/u,workdir=/mnt/w x "$HOME_OF_ROOT" && exec "$@"'
)
"""Lets all users read what root's home contains, such as a Python, in a mount namespace."""
HOSTS = {
    "a host without control groups": ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs x /sys/fs/cgroup && exec "$@"', "sh"],
    "a user who is not root": [*["unshare", "--mount", "sh", "-c", _OPEN_HOME, "sh"], "setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", "--"],
}

ATTACKS = [
    *(Attack("outlives its box", f"a program that {name}", "gone with its box, which ends at once", name) for name in PROGRAMS),
    *(Attack("outlives its box", f"a root that {name}", "gone with its box, which ends at once", name) for name in COMMANDS),
    *(Attack("outlives its box", f"all programs, on {name}", "gone, as with control groups", name) for name in HOSTS),
    *(Attack("never ends", f"right, then hangs {name}", "scores 0", name) for name in ENDLESS),
]


def given(kind: str, start: str) -> list[Attack]:
    return [each for each in ATTACKS if each.kind == kind and each.attack.startswith(start)]


def left() -> dict[str, Any]:
    """What this process's boxes have left on the host."""
    children = [child.pid for child in psutil.Process().children() if child.name() in ("bwrap", "sh", "cat")]
    return {
        "processes": marked(MARK) + in_groups(os.getpid()) + children,
        "groups": groups_of(os.getpid()),
        "descriptors": [name for name in map(_target, os.listdir("/proc/self/fd")) if "pidfd" in name],
    }


def _target(number: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{number}")
    except OSError:
        return ""


NOTHING = {"processes": [], "groups": [], "descriptors": []}
pytestmark = pytest.mark.needs("bubblewrap")


def run_hostile(name: str, limits: Limits = LIMITS) -> ProcessResult:
    program = f"print('ready', flush=True)\n{hostile(name, MARK)}"

    async def run() -> ProcessResult:
        return await run_once(Bubblewrap(), ["python3", "-I", "-c", program], limits=limits, ready=b"ready\n")

    return asyncio.run(run())


@pytest.mark.parametrize("attack", cases(given("outlives its box", "a program")))
def test_a_program_ends_with_its_box(attack: Attack) -> None:
    start = time.monotonic()
    run_hostile(attack.given)
    assert time.monotonic() - start < LIMITS.seconds + SOON
    assert left() == NOTHING


@pytest.mark.parametrize("attack", cases(given("outlives its box", "a root")))
def test_a_root_and_its_users_end_with_their_box(attack: Attack, own_root: RootFs) -> None:
    prelude = hostile("floods the errors", MARK).partition("while True: os.write(2")[0]
    command = COMMANDS[attack.given].replace("PYTHON", "python3 -c 'exec(open(\"/prelude\").read())\nexec(__import__(\"sys\").argv[1])'")

    async def run() -> None:
        async with open_box(Bubblewrap(), own_root, SHELL) as box:
            await box.run(["tee", "/prelude"], prelude.encode())
            try:
                await box.shell(command)
                await box.shell("echo more")
            except BoxLost:
                return

    start = time.monotonic()
    asyncio.run(run())
    assert time.monotonic() - start < 2 * (SHELL.seconds + SOON) + 10
    assert left() == NOTHING


@pytest.mark.parametrize("attack", cases(given("never ends", "")))
def test_a_right_program_that_never_ends_scores_0(attack: Attack, tmp_path: Path) -> None:
    task = open_code(tmp_path, seconds=0.7)
    body = "".join(f"        {line}\n" for line in ENDLESS[attack.given].splitlines())
    program = f"def double(x, begun=[]):\n    if not begun:\n        begun.append(1)\n{body}    return 2 * x\n"
    assert scores(task, f"```python\n{program}```", "def double(x):\n    return 2 * x") == [0.0, 1.0]
    assert left() == NOTHING


def test_what_a_right_program_leaves_running_is_killed_at_its_end(tmp_path: Path) -> None:
    program = "import os, time\n\ndef double(x):\n    if os.fork() == 0:\n        time.sleep(1000)\n    return 2 * x\n"
    start = time.monotonic()
    assert scores(open_code(tmp_path, seconds=SOON + 2), program) == [1.0]
    assert time.monotonic() - start < SOON
    assert left() == NOTHING


def driver(*prefix: str, mark: str, seconds: float) -> subprocess.Popen[str]:
    """A process that runs all hostile programs at once."""
    line = [*prefix, sys.executable, "-m", "tests.security.boxes", mark, str(seconds)]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "HOME_OF_ROOT": str(Path.home())}
    variables |= {"HOME": "/tmp", "TMPDIR": "/tmp"}
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables, cwd=ROOT)


@pytest.mark.parametrize("attack", cases(given("outlives its box", "all programs")))
def test_boxes_end_on_hosts_that_allow_less(attack: Attack) -> None:
    prefix = HOSTS[attack.given]
    mark = f"cd{os.getpid()}"
    process = driver(*prefix, mark=mark, seconds=1.0)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    taken = json.loads(out)
    assert set(taken) == set(PROGRAMS)
    assert max(taken.values()) < 1.0 + 2 * SOON
    assert marked(mark) == []
    assert groups_of(process.pid) == []
