"""One command in a box of its own: what it can do, and how attacks end."""

from __future__ import annotations

import asyncio
import os
import platform
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy
import pytest

from cycleqd_merge.sandbox.boxes import run_once
from cycleqd_merge.sandbox.bubblewrap import Bubblewrap
from cycleqd_merge.sandbox.interpreter import PACKAGES, staged, unreachable
from cycleqd_merge.sandbox.protocol import MIB, Limits, ProcessResult

LIMITS = Limits(memory=128 * MIB, disk=16 * MIB, output=100_000, processes=32, seconds=3.0)


def python(provider: Bubblewrap, program: str, stdin: bytes = b"", limits: Limits = LIMITS) -> ProcessResult:
    """Run a Python program in a box."""
    return asyncio.run(run_once(provider, ["python3", "-I", "-c", program], stdin, limits))


def test_a_command_reads_its_input_and_returns_its_status(bubblewrap: Bubblewrap) -> None:
    program = "import sys; data = sys.stdin.buffer.read(); print(len(data), data[:2]); sys.exit(7)"
    assert python(bubblewrap, program, b"\x00\xff" * 500_000) == ProcessResult(7, b"1000000 b'\\x00\\xff'\n")


def test_boxes_run_concurrently(bubblewrap: Bubblewrap) -> None:
    async def several() -> list[ProcessResult]:
        programs = [f"import time; time.sleep(0.2); print({n})" for n in range(12)]
        return await asyncio.gather(
            *(run_once(bubblewrap, ["python3", "-c", each], limits=LIMITS) for each in programs)
        )

    assert [finished.output for finished in asyncio.run(several())] == [b"%d\n" % n for n in range(12)]


def test_every_box_has_an_empty_folder_to_write_to(bubblewrap: Bubblewrap) -> None:
    program = "import os; print(os.listdir('/tmp')); open('/tmp/mine', 'w').write('x')"
    assert [python(bubblewrap, program).output for _ in range(2)] == [b"[]\n", b"[]\n"]


ATTACKS = {
    "fork bomb": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    "memory bomb": "held = []\nwhile True: held.append(bytearray(10**6))",
    "memory bomb of many": "import os\nfor _ in range(20): os.fork()\nheld = bytearray(10**8)",
    "disk fill": "with open('/tmp/attack', 'wb') as f:\n    while True: f.write(bytes(10**6))",
    "disk fill with files": "n = 0\nwhile True:\n    open(f'/tmp/attack{n}', 'w').close(); n += 1",
    "output flood": "while True: print('x' * 10**6)",
    "output without a newline": "import sys\nsys.stdout.write('x' * 10**7)",
    "error flood": "import sys\nwhile True: sys.stderr.write('x' * 10**6)",
    "sleep for ever": "import time\ntime.sleep(10**6)",
    "sleep for ever unreachable": "import os, signal, time\nfor s in set(range(1, 32)) - {9, 19}:\n"
    "    signal.signal(s, signal.SIG_IGN)\nif os.fork() == 0: os.setsid()\ntime.sleep(10**6)",
    "kill everything": "import os, signal\nfor pid in [-1, 1, 2, os.getppid()]:\n"
    "    try: os.kill(pid, signal.SIGKILL)\n    except OSError: pass\nraise SystemExit(1)",
    "descriptor flood": "import os\nwhile True: os.dup(1)",
}


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_an_attack_ends_and_the_next_box_works(bubblewrap: Bubblewrap, host_file: Path, attack: str) -> None:
    finished = python(bubblewrap, ATTACKS[attack])
    assert finished.code != 0 or finished.truncated
    assert len(finished.output) <= LIMITS.output
    assert python(bubblewrap, "print('works')") == ProcessResult(0, b"works\n")


@pytest.fixture
def server() -> Iterator[int]:
    """The port of a socket that listens on the host."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def test_there_is_no_network(bubblewrap: Bubblewrap, server: int) -> None:
    socket.create_connection(("127.0.0.1", server)).close()
    reach = (
        "import socket\ntry: socket.create_connection({}, timeout=1); print('out')\nexcept OSError: print('cut off')"
    )
    for address in (("127.0.0.1", server), ("8.8.8.8", 53), ("deb.debian.org", 80)):
        assert python(bubblewrap, reach.format(address)).output == b"cut off\n"


def test_the_host_is_not_visible(bubblewrap: Bubblewrap, host_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CYCLEQD_SECRET", "the host's secret")
    look = f"""
import glob, os
paths = [{str(host_file)!r}, "/etc/passwd", "/etc/shadow", "/root/.bashrc", "/proc/{os.getpid()}/environ"]
paths += ["/proc/self/root{host_file}", "/proc/1/root{host_file}", "/proc/1/cwd/etc/passwd", "/sys/kernel", "/dev/vda"]
paths += glob.glob("/proc/*/environ") + glob.glob("/proc/*/root/root") + glob.glob("/dev/sd*")
for path in paths:
    try: print(path, open(path).read())
    except OSError: pass
print(os.environ, os.listdir("/"))
"""
    output = python(bubblewrap, look).output.decode()
    assert "secret" not in output
    assert "root:" not in output
    assert "'usr'" in output
    assert "'home'" not in output


LARGER = replace(LIMITS, memory=1024 * MIB)  # a process may map that much; numpy maps 200 MiB


def own_python(provider: Bubblewrap, program: str, limits: Limits = LARGER) -> str:
    """Run a program with this environment's Python in a box; returns its output."""
    return asyncio.run(run_once(provider, [*provider.python(), "-c", program], limits=limits)).output.decode()


def test_a_box_has_this_environments_python_and_numpy(bubblewrap: Bubblewrap) -> None:
    show = """
import platform, sys, numpy as np
print(platform.python_version(), np.__version__, np.linalg.inv(np.eye(2)).sum(), len(sys.path))
print(np.random.default_rng(0).integers(10), (np.ones((200, 200)) @ np.ones((200, 200))).sum())
"""
    expected = [platform.python_version(), numpy.__version__, "2.0", "4", "8", "8000000.0"]
    assert own_python(bubblewrap, show).split() == expected


def test_other_packages_are_not_visible(bubblewrap: Bubblewrap) -> None:
    look = """
import glob, importlib, os, sys
print(sorted(os.listdir(sys.path[0])))
for name in ("torch", "pip", "apt", "site", "sitecustomize", "cycleqd_merge"):
    try: importlib.import_module(name); print("imported", name)
    except ImportError: pass
"""
    assert own_python(bubblewrap, look).splitlines() == ["['numpy', 'numpy.libs']", "imported site"]


def test_the_python_of_a_box_is_read_only(bubblewrap: Bubblewrap) -> None:
    write = """
import json, numpy, os, sys
for path in (json.__file__, numpy.__file__, sys.executable, sys.path[0] + "/attack.py", "/python/attack"):
    try: open(path, "a").write("attack"); print("wrote", path)
    except OSError: pass
print(sys.path[0])
"""
    output = own_python(bubblewrap, write)
    assert output == f"{PACKAGES}\n"
    assert str(Path.home()) not in output


def test_sets_have_the_same_order_in_all_boxes(bubblewrap: Bubblewrap) -> None:
    program = "print(list({'the', 'quick', 'brown', 'fox', 'jumps'}))"
    assert len({own_python(bubblewrap, program) for _ in range(4)}) == 1


def test_files_below_a_closed_folder_are_mounted_elsewhere(tmp_path: Path) -> None:
    closed = tmp_path / "closed" / "python"
    closed.mkdir(parents=True)
    for folder in (closed, *closed.parents):
        if folder.is_relative_to(tmp_path):
            folder.chmod(0o755)
    reachable_before = unreachable([str(closed)])
    (tmp_path / "closed").chmod(0o700)
    assert str(closed) in unreachable([str(closed)])
    assert reachable_before in ([], [str(closed)])  # the test's own folder may be closed, too
    assert unreachable(["/usr/bin/env"]) == []
    place = Path(staged(str(closed)))
    assert place.is_dir()
    assert place.parent.stat().st_mode & 0o005 == 0o005


def test_threads_get_the_same_mount_point(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        places = set(pool.map(lambda _: staged(str(tmp_path)), range(100)))
    assert [Path(place).is_dir() for place in places] == [True]


def test_links_and_proc_do_not_lead_outside(bubblewrap: Bubblewrap, host_file: Path) -> None:
    follow = f"""
import os
os.symlink({str(host_file)!r}, "/tmp/link")
os.makedirs("/tmp/a/b"); os.symlink("../../../../../..", "/tmp/a/b/up")
for path in ["/tmp/link", "/tmp/a/b/up{host_file}", "/proc/self/cwd/../{host_file}", "/proc/self/fd/0/..{host_file}"]:
    for mode in ("r", "w"):
        try: print(open(path, mode).read())
        except OSError: pass
for number in range(3, 1024):
    try: print(os.readlink(f"/proc/self/fd/{{number}}"))
    except OSError: pass
"""
    output = python(bubblewrap, follow).output.decode()
    assert "secret" not in output
    assert str(host_file.parent) not in output


def test_nothing_is_written_outside(bubblewrap: Bubblewrap, host_file: Path) -> None:
    write = f"""
import os
for path in ["/attack", "/usr/attack", "/usr/bin/attack", "/etc/attack", "/proc/sys/kernel/core_pattern",
             "/proc/sysrq-trigger", {str(host_file)!r}, "/dev/attack/x"]:
    try: open(path, "w").write("attack"); print("wrote", path)
    except OSError: pass
"""
    assert python(bubblewrap, write).output == b""


def test_a_box_has_and_gains_no_privileges(bubblewrap: Bubblewrap) -> None:
    gain = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
print([line for line in open("/proc/self/status") if line.startswith(("CapEff", "CapPrm", "NoNewPrivs"))])
print(libc.unshare(0x10000000), libc.mount(b"x", b"/tmp", b"tmpfs", 0, 0), libc.ptrace(16, 1, 0, 0))
for call in (lambda: os.setuid(0), lambda: os.chroot("/tmp"), lambda: os.mknod("/tmp/disk", 0o60600, os.makedev(8, 0))):
    try: call(); print("gained")
    except OSError: pass
"""
    output = python(bubblewrap, gain).output.decode()
    assert output.count("0000000000000000") == 2
    assert "NoNewPrivs:\\t1" in output
    assert "-1 -1 -1" in output
    assert "gained" not in output
