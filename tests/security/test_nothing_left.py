"""Nothing is left when a box is done: what the host holds before and after 200 hostile samples."""

from __future__ import annotations

import asyncio
import gc
import os
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import psutil
import pytest

from cycleqd_merge.tasks.protocol import Task
from tests.security.attacks import Attack
from tests.security.boxes import COMMANDS, PROGRAMS, command_of, groups_of, in_groups, marked, program_of
from tests.tasks.code.test_task import open_code
from tests.tasks.os_interaction.test_task import WORD, bash, open_os
from tests.tasks.scripted import Scripted

MARK = f"cn{os.getpid()}"
SAMPLES = 200
ATTACKS = [Attack("leaves something behind", f"{SAMPLES} hostile samples", "nothing is left")]
KEYS = (
    "for kind in (b'user', b'keyring'):\n    for ring in (-2, -3, -4, -5):\n"
    "        libc.syscall(248, kind, b'MARK', b'x' * 9, 9 if kind == b'user' else 0, ring)"
)

pytestmark = [pytest.mark.needs("bubblewrap"), pytest.mark.usefixtures("own_root")]


def held() -> dict[str, int]:
    """Numbers of what this host holds of this process's boxes, or in all."""
    gc.collect()
    temporary = [name for folder in ("/tmp", "/dev/shm", tempfile.gettempdir()) for name in os.listdir(folder)]
    return {
        "children": len(psutil.Process().children(recursive=True)),
        "processes": len(marked(MARK)) + len(in_groups(os.getpid())),
        "control groups": len(groups_of(os.getpid())),
        "mounts": _lines("/proc/self/mountinfo"),
        "named keys": sum(MARK in line for line in Path("/proc/keys").read_text().splitlines()),
        "shared memory, queues and semaphores": sum(_lines(f"/proc/sysvipc/{kind}") for kind in ("shm", "msg", "sem")),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "temporary files": sum(MARK in name or f"cycleqd-python-{os.getpid()}-" in name for name in temporary),
    }


def keys() -> int:
    """The number of keys of all users, as the kernel counts them."""
    return sum(int(line.split()[1]) for line in Path("/proc/key-users").read_text().splitlines())


def _lines(path: str) -> int:
    return Path(path).read_text().count("\n")


def replies(texts: Iterable[str]) -> Scripted:
    """A model that gives each text to one sample, as the answer or the first turn."""
    saying = iter(texts)
    return Scripted(
        lambda prompt: "Act: answer(no)" if len(prompt) > 1 and not isinstance(prompt, str) else next(saying)
    )


async def score(task: Task, texts: list[str]) -> list[float]:
    model = replies(texts)
    outcomes = await asyncio.gather(*(task.score(task.samples("search")[0], model) for _ in texts))
    return [outcome.score for outcome in outcomes]


@pytest.mark.parametrize("samples", [60, pytest.param(SAMPLES, marks=pytest.mark.slow)])
def test_nothing_is_left_of_hostile_samples(samples: int, tmp_path: Path) -> None:
    answers = [f"def double(x):\n    exec({program_of(text, MARK)!r}, {{}})\n" for text in (*PROGRAMS.values(), KEYS)]
    turns = [bash(command_of(name, MARK)) for name in COMMANDS]
    folders = [tmp_path / f"{n}" for n in range(5)]
    for folder in folders:
        folder.mkdir()
    codes = [open_code(folder, seconds=0.3, memory=128) for folder in folders[:4]]
    shells = open_os(folders[4], WORD, seconds=0.7, memory=256, boxes=16)

    async def play(samples: int) -> list[float]:
        programs = [answers[n % len(answers)] for n in range(samples * 7 // 10)]
        commands = [turns[n % len(turns)] for n in range(samples - len(programs))]
        quarters = [score(task, programs[n :: len(codes)]) for n, task in enumerate(codes)]
        return [each for part in await asyncio.gather(*quarters, score(shells, commands)) for each in part]

    asyncio.run(play(8))  # what is started and cached once
    before, keys_before = held(), keys()
    scores = asyncio.run(play(samples))
    assert held() == before
    assert len(scores) == samples
    assert set(scores) <= {0.0, 1.0}
    deadline = time.monotonic() + 15  # the kernel removes keys late, and others on this host have keys
    while keys() > keys_before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert keys() <= keys_before
    right = "def double(x):\n    return 2 * x"
    assert asyncio.run(score(codes[0], [right])) == [1.0]
