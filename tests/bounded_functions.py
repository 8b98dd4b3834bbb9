"""Functions that test_bounded.py calls in child processes."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from typing import Any

from cycleqd_merge.errors import TaskError


def same(value: Any, *, times: int = 1) -> list[Any]:
    return [value] * times


def loop() -> None:
    while True:
        pass


def search(pattern: str, text: str) -> bool:
    return re.search(pattern, text) is not None


def allocate(count: int) -> int:
    return len(bytearray(count))


def text_of(count: int) -> str:
    return "x" * count


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def fail(message: str) -> None:
    raise TaskError(message)


def divide() -> float:
    return 1 / 0


def end_by(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(60)


def pid(seconds: float = 0) -> int:
    time.sleep(seconds)
    return os.getpid()


def noisy() -> int:
    sys.stdout.write("not JSON\n")
    sys.stdout.flush()
    sys.stdin.read()
    return signal.SIGINT
