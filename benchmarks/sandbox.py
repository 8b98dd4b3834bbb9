"""The cost of sandboxes: programs in boxes compared with plain subprocesses, and shells in boxes.

python benchmarks/sandbox.py [--programs 200] [--shells 32]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from rich.console import Console
from rich.table import Table

from cycleqd_merge.sandbox.boxes import open_box, run_once
from cycleqd_merge.sandbox.protocol import Limits, Provider, RootFs
from cycleqd_merge.sandbox.providers import sandbox_for
from cycleqd_merge.sandbox.slots import Slots
from cycleqd_merge.tasks.code.execution import RUNNER
from cycleqd_merge.tasks.code.values import pack

PROGRAM = "def shared(a, b):\n    return tuple(set(a) & set(b))\n"
INPUTS = [[list(range(n)), list(range(n // 2, 2 * n))] for n in range(100)]
REQUEST = {"program": PROGRAM, "entry_point": "shared", "inputs": [[pack(each) for each in pair] for pair in INPUTS]}
COMMAND = ["/usr/bin/python3", "-I", "-c", RUNNER]
"""A typical problem, as task kind `code` runs it."""


async def run_bare() -> None:
    """Run the program without a sandbox."""
    process = await asyncio.create_subprocess_exec(*COMMAND, stdin=PIPE, stdout=PIPE, stderr=DEVNULL)
    output, _ = await process.communicate(json.dumps(REQUEST).encode())
    assert output.count(b"\n") == len(INPUTS) + 1


async def run_boxed(provider: Provider) -> None:
    """Run the program in a box of its own."""
    finished = await run_once(provider, COMMAND, json.dumps(REQUEST).encode())
    assert finished.output.count(b"\n") == len(INPUTS) + 1


async def runs_per_second(work: Callable[[], Awaitable[None]], count: int) -> float:
    """Throughput of `count` runs, on all cores."""
    slots = Slots(os.cpu_count() or 1)

    async def one() -> None:
        async with slots.slot():
            await work()

    start = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(count)))
    return count / (time.perf_counter() - start)


async def measure_programs(provider: Provider, count: int, table: Table) -> None:
    """Alternate plain and boxed runs, so that a busy machine slows down both."""
    rates: dict[str, list[float]] = {"bare": [], "boxed": []}
    for _ in range(8):
        rates["bare"].append(await runs_per_second(run_bare, count // 8))
        rates["boxed"].append(await runs_per_second(lambda: run_boxed(provider), count // 8))
    bare, boxed = (sum(each) / len(each) for each in rates.values())
    table.add_row("programs/s, bare", f"{bare:.1f}", "")
    table.add_row("programs/s, boxed", f"{boxed:.1f}", f"{boxed / bare:.2f} of bare (target: at least 0.6)")


async def measure_shells(provider: Provider, count: int, table: Table) -> None:
    """Time to start `count` boxes with a shell at once."""
    start = time.perf_counter()
    async with AsyncExitStack() as stack:
        opened = (stack.enter_async_context(open_box(provider, RootFs("default"), Limits())) for _ in range(count))
        boxes = await asyncio.gather(*opened)
        answers = await asyncio.gather(*(box.shell("echo up") for box in boxes))
        seconds = time.perf_counter() - start
        assert {answer.output for answer in answers} == {b"up\n"}
    table.add_row(f"{count} shells started", f"{seconds:.2f} s", "(target: under 3 s)")


async def run(options: argparse.Namespace) -> None:
    table = Table("measurement", "result", "comparison")
    provider = (await asyncio.to_thread(sandbox_for, RootFs())).provider
    await measure_programs(provider, options.programs, table)
    provider = (await asyncio.to_thread(sandbox_for, RootFs("default"))).provider
    await measure_shells(provider, options.shells, table)
    Console(width=100).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=int, default=200)
    parser.add_argument("--shells", type=int, default=32)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
