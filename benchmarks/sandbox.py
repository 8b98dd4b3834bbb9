"""What sandboxes cost: programs in a box each beside bare subprocesses, shells in boxes with a root of their own.

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
from cycleqd_merge.sandbox.protocol import Limits, Provider, Root
from cycleqd_merge.sandbox.providers import Slots, sandbox_for
from cycleqd_merge.tasks.code.execution import RUNNER
from cycleqd_merge.tasks.code.values import pack

PROGRAM = "def shared(a, b):\n    return tuple(set(a) & set(b))\n"
INPUTS = [[list(range(n)), list(range(n // 2, 2 * n))] for n in range(100)]
ASKED = {"program": PROGRAM, "entry_point": "shared", "inputs": [[pack(each) for each in pair] for pair in INPUTS]}
LINE = ["/usr/bin/python3", "-I", "-c", RUNNER]
"""A problem of the usual size, as task kind `code` runs it."""


async def bare() -> None:
    """A program as it is."""
    process = await asyncio.create_subprocess_exec(*LINE, stdin=PIPE, stdout=PIPE, stderr=DEVNULL)
    output, _ = await process.communicate(json.dumps(ASKED).encode())
    assert output.count(b"\n") == len(INPUTS) + 1


async def boxed(provider: Provider) -> None:
    """The same program in a box of its own."""
    finished = await run_once(provider, LINE, json.dumps(ASKED).encode())
    assert finished.output.count(b"\n") == len(INPUTS) + 1


async def per_second(work: Callable[[], Awaitable[None]], count: int) -> float:
    """How many a second, on all cores."""
    slots = Slots(os.cpu_count() or 1)

    async def one() -> None:
        async with slots.taken():
            await work()

    start = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(count)))
    return count / (time.perf_counter() - start)


async def programs(provider: Provider, count: int, table: Table) -> None:
    """Bare and boxed in turns, so that a busy moment meets both."""
    rates: dict[str, list[float]] = {"bare": [], "boxed": []}
    for _ in range(8):
        rates["bare"].append(await per_second(bare, count // 8))
        rates["boxed"].append(await per_second(lambda: boxed(provider), count // 8))
    plain, walled = (sum(each) / len(each) for each in rates.values())
    table.add_row("programs/s, bare", f"{plain:.1f}", "")
    table.add_row("programs/s, a box each", f"{walled:.1f}", f"{walled / plain:.2f} of bare (at least 0.6)")


async def shells(provider: Provider, count: int, table: Table) -> None:
    """So many systems with a shell each, up at once."""
    start = time.perf_counter()
    async with AsyncExitStack() as stack:
        opened = (stack.enter_async_context(open_box(provider, Root("default"), Limits())) for _ in range(count))
        boxes = await asyncio.gather(*opened)
        answers = await asyncio.gather(*(box.shell("echo up") for box in boxes))
        seconds = time.perf_counter() - start
        assert {answer.output for answer in answers} == {b"up\n"}
    table.add_row(f"{count} shells up", f"{seconds:.2f} s", "(under 3 s)")


async def run(options: argparse.Namespace) -> None:
    table = Table("what", "measured", "ratio")
    provider = (await asyncio.to_thread(sandbox_for, Root())).provider
    await programs(provider, options.programs, table)
    provider = (await asyncio.to_thread(sandbox_for, Root("default"))).provider
    await shells(provider, options.shells, table)
    Console(width=100).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=int, default=200)
    parser.add_argument("--shells", type=int, default=32)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
