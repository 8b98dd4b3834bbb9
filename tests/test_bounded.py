"""Calls in child processes, within limits of CPU time and memory."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest

from cycleqd_merge import bounded
from cycleqd_merge.bounded import Bounds, LimitExceeded, call
from cycleqd_merge.errors import InfrastructureError, TaskError
from tests import bounded_functions as functions
from tests.imports import imported

SHORT = Bounds(seconds=0.2, memory=2**28, output=2**20)


@pytest.mark.parametrize(
    "value",
    [None, 0.1, 10**40, "é\n\r\u2028\x00", "\ud800", "\udc00\ud800", "x" * 500_000, {"a": [1, {"b": False}]}, [[[]]]],
)
def test_values_return_unchanged(value: Any) -> None:
    assert call(SHORT, functions.same, value, times=2) == [value, value]


@pytest.mark.parametrize(
    ("limit", "function", "arguments"),
    [
        ("CPU time", functions.loop, []),
        ("CPU time", functions.search, [r"(a|aa)+$", "a" * 60 + "b"]),
        ("memory", functions.allocate, [2**30]),
        ("memory", functions.text_of, [10**10]),
        ("memory", functions.end_by, [signal.SIGSEGV]),  # an overflow of the C stack
        ("output", functions.text_of, [2**21]),
        ("depth", functions.nested, [100_000]),
    ],
)
def test_a_call_beyond_a_limit_ends_and_the_next_one_succeeds(limit: str, function: Any, arguments: list[Any]) -> None:
    started = time.monotonic()
    with pytest.raises(LimitExceeded, match=limit):
        call(SHORT, function, *arguments)
    assert time.monotonic() - started < 20
    assert call(SHORT, functions.same, 1) == [1]


def test_arguments_nested_too_deeply_are_a_limit() -> None:
    with pytest.raises(LimitExceeded, match="depth"):
        call(SHORT, functions.same, functions.nested(100_000))


def test_errors_of_the_function_are_raised() -> None:
    with pytest.raises(TaskError, match=r"^role: not allowed$"):
        call(SHORT, functions.fail, "role: not allowed")
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        call(SHORT, functions.divide)
    with pytest.raises(TypeError):
        call(SHORT, functions.same, object())


def test_a_child_killed_while_idle_is_replaced() -> None:
    assert call(SHORT, functions.same, 1) == [1]
    killed = [child for child in psutil.Process().children() if "bounded_child" in " ".join(child.cmdline())]
    for child in killed:
        child.kill()
    psutil.wait_procs(killed, timeout=0.5)
    assert [call(SHORT, functions.same, 1) for _ in range(5)] == [[1]] * 5


def test_a_child_killed_from_outside_is_no_limit() -> None:
    with pytest.raises(InfrastructureError, match="-9"):
        call(SHORT, functions.end_by, signal.SIGKILL)
    assert call(SHORT, functions.same, 1) == [1]


def test_a_child_without_cpu_time_is_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "_WAIT_SECONDS", 0.2)
    monkeypatch.setattr(bounded, "_WAIT_FACTOR", 0.0)
    with pytest.raises(InfrastructureError, match="overloaded"):
        call(SHORT, functions.pid, 60)


def test_waiting_is_not_counted_and_limits_hold_for_one_call_only() -> None:
    assert call(SHORT, functions.pid, 1.5) == call(SHORT, functions.pid)
    for _ in range(4):  # together they use more CPU time than one call may
        call(SHORT, functions.search, r"(a|aa)+$", "a" * 25 + "b")


def test_what_a_function_prints_is_not_its_answer() -> None:
    assert call(SHORT, functions.noisy) == signal.SIGINT


def test_ctrl_c_does_not_end_children() -> None:
    process = call(SHORT, functions.pid)
    os.kill(process, signal.SIGINT)
    assert call(SHORT, functions.pid) == process


def test_many_callers_share_a_few_children() -> None:
    async def pids() -> list[int]:
        return await asyncio.gather(*(asyncio.to_thread(call, SHORT, functions.pid, 0.01) for _ in range(200)))

    assert 1 <= len(set(asyncio.run(pids()))) <= 4


def test_a_slow_call_does_not_delay_the_others() -> None:
    with ThreadPoolExecutor(2) as threads:
        slow = threads.submit(call, Bounds(seconds=2), functions.loop)
        for _ in range(20):
            call(SHORT, functions.same, 1)
        assert not slow.done()
        assert isinstance(slow.exception(), LimitExceeded)


def test_calls_are_fast() -> None:
    call(SHORT, functions.same, 1)
    seconds = []
    for _ in range(200):
        started = time.perf_counter()
        call(SHORT, functions.same, 1)
        seconds.append(time.perf_counter() - started)
    assert sorted(seconds)[50] < 0.001  # seconds; the lower quartile, for busy machines


def test_children_end_with_their_parent_even_if_it_is_killed() -> None:
    code = (
        "import threading, time; from tests import bounded_functions as f; from cycleqd_merge.bounded import *\n"
        "idle = call(Bounds(), f.pid)\n"
        "threading.Thread(target=call, args=(Bounds(seconds=1), f.loop)).start(); time.sleep(0.3)\n"
        "print(idle, call(Bounds(), f.pid), flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    children = psutil.Process(parent.pid).children() if parent.stdout.readline() else []
    parent.kill()
    parent.communicate()
    assert children
    assert psutil.wait_procs(children, timeout=60)[1] == []


def test_a_forked_process_has_children_of_its_own() -> None:
    code = (
        "import os; from tests import bounded_functions as f; from cycleqd_merge.bounded import *\n"
        "first = call(Bounds(), f.pid)\n"
        "if not os.fork(): os._exit(call(Bounds(), f.pid) == first)\n"
        "assert os.wait()[1] == 0 and call(Bounds(), f.pid) == first"
    )
    assert imported(code).code == 0


def test_the_child_imports_little() -> None:
    assert len(imported("import cycleqd_merge.bounded_child").modules) < 100
