"""Nothing outlives its box: hostile programs in real boxes, also without control groups or root, and in killed runs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from cycleqd_merge.sandbox.boxes import open_box, run_once
from cycleqd_merge.sandbox.bubblewrap import Bubblewrap
from cycleqd_merge.sandbox.cgroups import parent_cgroups
from cycleqd_merge.sandbox.owners import own_name
from cycleqd_merge.sandbox.protocol import MIB, BoxLost, Limits, ProcessResult, RootFs
from cycleqd_merge.tasks import limits
from cycleqd_merge.tasks.protocol import Outcome
from tests.security.attacks import Attack, cases
from tests.security.boxes import COMMANDS, PROGRAMS, command_of, groups_of, in_groups, marked, program_of
from tests.tasks.code.test_task import open_code, scores
from tests.tasks.os_interaction.test_task import open_os
from tests.tasks.scripted import Scripted

MARK = f"cq{os.getpid()}"
LIMITS = Limits(memory=128 * MIB, disk=16 * MIB, output=100_000, processes=32, seconds=0.3)
SHELL = Limits(memory=256 * MIB, disk=32 * MIB, output=20_000, processes=64, seconds=0.7)
ROOT = Path(__file__).parents[2]
SOON = 8.0
"""Seconds that are plenty for a box to end on a busy machine; before, it took a minute, or for ever."""

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

_KILL = "kill -9 -1"
SUICIDAL = {
    "in a script": {"init_script": [["bash", _KILL]]},
    "in the command that starts": {"start": ["bash", _KILL]},
}

OWNERS = {
    "a dead owner": True,
    "a dead owner of version 0.1.0": True,
    "an owner whose id another process has now": True,
    "a live owner": False,
    "a live owner of version 0.1.0": False,
    "an owner in another pid namespace": False,
}
"""Owners of control groups -> whether their groups are swept."""

_SHOW = "print(open('/proc/1/comm').read().strip(), 'reached' if reached else 'denied')"
REACHES = {
    "signals": f"reached = False\nfor n in range(1, 65):\n    try: os.kill(1, n)\n    except OSError: pass\n{_SHOW}",
    "attaching": f"reached = libc.ptrace(16, 1, 0, 0) == 0\n{_SHOW}",
    "seizing": f"reached = libc.ptrace(0x4206, 1, 0, 0) == 0\n{_SHOW}",
    "writing to its memory": "try: reached = bool(open('/proc/1/mem', 'r+b', 0))\n"
    f"except OSError: reached = False\n{_SHOW}",
    "writing to its thread's memory": "try: reached = bool(open('/proc/1/task/1/mem', 'r+b', 0))\n"
    f"except OSError: reached = False\n{_SHOW}",
    "writing between processes": f"reached = libc.process_vm_writev(1, None, 0, None, 0, 0) == 0\n{_SHOW}",
}
GREEDY = {
    "one process": "held = []\nwhile True: held.append(bytearray(1 << 20))",
    "many processes": "import os\nfor _ in range(4): os.fork()\nheld = bytearray(90 << 20)\nwhile True: pass",
    "files in memory": "import os\nfor n in range(4):\n    with open(f'/tmp/{n}', 'wb') as file:\n"
    "        while True: file.write(bytes(1 << 20))",
    "anonymous files": "import os\nwhile True:\n    os.write(os.memfd_create('x'), bytes(1 << 26))",
    "pipes": "import os\nwhile True:\n    _, end = os.pipe()\n    os.set_blocking(end, False)\n"
    "    os.write(end, bytes(1 << 16))",
}
_OPEN_HOME = (
    "mount -t tmpfs x /mnt && mkdir -m 755 /mnt/u /mnt/w && "
    'mount -t overlay -o lowerdir="$HOME_OF_ROOT",upperdir=/mnt/u,workdir=/mnt/w x "$HOME_OF_ROOT" && exec "$@"'
)
"""Lets all users read what root's home contains, such as a Python, in a mount namespace."""
_IN_MOUNTS = ("unshare", "--mount", "sh", "-c")
HOSTS = {
    "a host without control groups": [*_IN_MOUNTS, 'mount -t tmpfs x /sys/fs/cgroup && exec "$@"', "sh"],
    "a user who is not root": [
        *(*_IN_MOUNTS, _OPEN_HOME, "sh"),
        *("setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", "--"),
    ],
}

ATTACKS = [
    *(
        Attack("outlives its box", f"a program that {name}", "gone with its box, which ends at once", name)
        for name in PROGRAMS
    ),
    *(
        Attack("outlives its box", f"a root that {name}", "gone with its box, which ends at once", name)
        for name in COMMANDS
    ),
    *(Attack("outlives its box", f"all programs, on {name}", "gone, as with control groups", name) for name in HOSTS),
    Attack("outlives its run", "all programs, in a run that is killed", "gone; the next run removes their groups"),
    *(
        Attack("outlives its start", f"a run that is killed {delay:.2f} s after its first box starts", "gone", delay)
        for delay in (0.0, 0.02, 0.05, 0.1, 0.2)
    ),
    *(
        Attack("leftovers", f"a program in a group of {kind}", "swept" if swept else "untouched", (kind, swept))
        for kind, swept in OWNERS.items()
    ),
    *(Attack("control of process 1", name, "denied", text) for name, text in REACHES.items()),
    *(Attack("memory of the host", name, "fails this sample alone", text) for name, text in GREEDY.items()),
    Attack("a start that is cancelled", "at any point of it", "leaves nothing", 0.002),
    *(Attack("a row that ends its box", name, "scores 0; the run goes on", row) for name, row in SUICIDAL.items()),
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
    program = f"print('ready', flush=True)\n{program_of(PROGRAMS[name], MARK)}"

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
    command = command_of(attack.given, MARK)

    async def run() -> None:
        async with open_box(Bubblewrap(), own_root, SHELL) as box:
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


def until(seconds: float, reached: Callable[[], bool]) -> bool:
    """Wait for a condition; returns whether it was met in time."""
    deadline = time.monotonic() + seconds
    while not reached() and time.monotonic() < deadline:
        time.sleep(0.05)
    return reached()


@pytest.fixture
def killed() -> Iterator[tuple[str, int]]:
    """A process that was killed while all hostile programs ran: the name of the programs, and its id."""
    mark = f"ck{os.getpid()}"
    process = driver(mark=mark, seconds=60.0)
    ending = 6  # programs that end by themselves
    assert until(30, lambda: len(marked(mark)) > len(PROGRAMS) - ending)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    yield mark, process.pid
    for pid in marked(mark):
        os.kill(pid, signal.SIGKILL)


def sweep() -> None:
    """What a process does before its first box."""
    parent_cgroups.cache_clear()
    parent_cgroups()


@pytest.mark.parametrize("attack", cases(given("outlives its run", "")))
def test_boxes_end_with_a_killed_run_whose_groups_the_next_one_removes(attack: Attack, killed: tuple[str, int]) -> None:
    mark, pid = killed
    assert until(SOON, lambda: marked(mark) == [])
    assert [each for each in psutil.process_iter(["cmdline"]) if f"/cycleqd-{pid}-" in str(each.info["cmdline"])] == []
    sweep()
    assert groups_of(pid) == []


@pytest.mark.parametrize("attack", cases(given("outlives its start", "")))
def test_boxes_that_are_being_started_end_with_a_killed_run(attack: Attack) -> None:
    mark = f"cs{os.getpid()}"
    process = driver(mark=mark, seconds=60.0)
    assert until(30, lambda: psutil.Process(process.pid).children() != [])
    time.sleep(attack.given)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert until(SOON, lambda: marked(mark) + in_groups(process.pid) == [])
    sweep()
    assert groups_of(process.pid) == []


@pytest.fixture
def group() -> Iterator[Callable[[str], Path]]:
    """Creates a control group for boxes of the owner of a name, next to this process's own."""
    if not parent_cgroups():
        pytest.skip("control groups: not writable")
    made: list[Path] = []

    def make(owner: str) -> Path:
        made.append(parent_cgroups()[0] / f"cycleqd-{owner}-7")
        made[-1].mkdir()
        return made[-1]

    yield make
    for path in filter(Path.exists, made):
        path.rmdir()


def dead() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def owner(kind: str) -> str:
    start, namespace = own_name().split("-")[1:]
    return {
        "a dead owner": f"{dead()}-1-{namespace}",
        "a dead owner of version 0.1.0": str(dead()),
        "an owner whose id another process has now": f"{os.getpid()}-{int(start) - 1}-{namespace}",
        "a live owner": f"{os.getpid()}-{start}-{namespace}",
        "a live owner of version 0.1.0": str(os.getpid()),
        "an owner in another pid namespace": f"{dead()}-1-{int(namespace) + 1}",
    }[kind]


@pytest.mark.parametrize("attack", cases(given("leftovers", "a program in a group of")))
def test_groups_of_dead_owners_are_swept_and_no_others(attack: Attack, group: Callable[[str], Path]) -> None:
    kind, swept = attack.given
    path = group(owner(kind))
    process = subprocess.Popen(["sh", "-c", 'echo $$ > "$1/cgroup.procs"; exec sleep 1000', "sh", path])
    assert until(5, lambda: (path / "cgroup.procs").read_text() == f"{process.pid}\n")
    sweep()
    time.sleep(0.05)
    assert (process.poll(), path.exists()) == ((-signal.SIGKILL, False) if swept else (None, True))
    process.kill()
    process.wait()


@pytest.mark.parametrize("attack", cases(given("control of process 1", "")))
def test_process_1_of_a_box_is_out_of_reach(attack: Attack) -> None:
    line = ["python3", "-I", "-c", program_of(attack.given, MARK)]
    finished = asyncio.run(run_once(Bubblewrap(), line, limits=replace(LIMITS, seconds=5.0)))
    assert finished.output == b"bwrap denied\n"


@pytest.mark.parametrize("attack", cases(given("memory of the host", "")))
def test_a_box_without_memory_fails_alone(attack: Attack, tmp_path: Path) -> None:
    body = "".join(f"    {line}\n" for line in attack.given.splitlines())
    task = open_code(tmp_path, seconds=2.0, memory=128)
    assert scores(task, f"def double(x):\n{body}    return 2 * x\n", "def double(x):\n    return 2 * x") == [0.0, 1.0]
    assert left() == NOTHING


def test_a_box_is_the_first_to_end_if_the_host_has_no_memory_left() -> None:
    show = "print(open('/proc/self/oom_score_adj').read())\ntry: open('/proc/self/oom_score_adj', 'w').write('0')\n"
    show += "except OSError: print('kept')"
    assert asyncio.run(run_once(Bubblewrap(), ["python3", "-I", "-c", show])).output == b"1000\n\nkept\n"


@pytest.mark.parametrize("attack", cases(given("a start that is cancelled", "")))
def test_a_cancelled_start_leaves_nothing(attack: Attack) -> None:
    async def run(delay: float) -> None:
        task = asyncio.create_task(run_once(Bubblewrap(), ["sleep", "1000"], limits=LIMITS))
        await asyncio.sleep(delay)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def run_all() -> None:
        await asyncio.gather(*(run(n * attack.given) for n in range(20)))

    asyncio.run(run_all())
    assert left() == NOTHING


@pytest.mark.usefixtures("own_root")
@pytest.mark.parametrize("attack", cases(given("a row that ends its box", "")))
def test_a_row_that_ends_its_box_costs_that_row(attack: Attack, tmp_path: Path) -> None:
    hostile = {"description": "x", "match": "7", **attack.given}
    task = open_os(tmp_path, hostile, {"description": "y", "match": "7"})
    model = Scripted(lambda _: "Act: answer(7)")

    async def play() -> list[Outcome]:
        return [await limits.score_within_limits(task, sample, model) for sample in task.samples("search")]

    first, second = asyncio.run(play())
    assert (first.score, first.limits) == (0.0, ("preparing the system ended the box 3 times",))
    assert (second.score, second.limits) == (1.0, ())
    assert left() == NOTHING
