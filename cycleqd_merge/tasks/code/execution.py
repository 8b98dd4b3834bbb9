"""Running programs in boxes: what a function returns for each of some inputs, as texts that prove nothing."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cycleqd_merge.cache import cache_folder
from cycleqd_merge.errors import InfrastructureError
from cycleqd_merge.files import write_atomically
from cycleqd_merge.sandbox.boxes import run_once
from cycleqd_merge.sandbox.protocol import MIB, Limits, Provider
from cycleqd_merge.tasks.code.problems import CodeProblem

_HERE = Path(__file__).parent
RUNNER = "\n".join((_HERE / name).read_text(encoding="utf-8") for name in ("values.py", "runner.py"))
"""The program that runs in a box; it takes a request on its standard input and answers with lines."""
_READY = b"ready\n"


@dataclass(frozen=True)
class Expected:
    """What the reference solution returns, a text per input, and the seconds that it took."""

    outputs: list[str]
    seconds: float


async def returned(
    provider: Provider, program: str, entry_point: str, inputs: Sequence[Any], limits: Limits
) -> list[str] | None:
    """What a program's function returns for packed inputs, a text each; None if it did not get to the end.

    Raises:
        InfrastructureError: the host cannot start a box.
    """
    asked = json.dumps({"program": program, "entry_point": entry_point, "inputs": inputs}).encode()
    finished = await run_once(provider, ["python3", "-I", "-c", RUNNER], asked, limits, begins=_READY)
    outputs = finished.output.decode(errors="replace").split("\n")[:-1]
    return outputs if len(outputs) == len(inputs) and not finished.cut else None


async def expected(provider: Provider, problem: CodeProblem, inputs: Sequence[Any], kind: str) -> Expected:
    """What the reference solution returns: worked out in a box once, then kept in the cache, outside of any box.

    Raises:
        InfrastructureError: the solution does not run.
    """
    key = hashlib.sha256(json.dumps([RUNNER, problem.solution, problem.entry_point, inputs]).encode()).hexdigest()
    path = cache_folder("expected") / f"{key[:32]}.json"
    if path.exists():
        return Expected(**json.loads(await asyncio.to_thread(path.read_text)))
    start = time.perf_counter()
    limits = Limits(memory=4096 * MIB, output=256 * MIB, seconds=120.0)
    outputs = await returned(provider, problem.solution, problem.entry_point, inputs, limits)
    if outputs is None or any(text.startswith('["error"') for text in outputs):
        raise InfrastructureError(f"{problem.task_id}: its reference solution does not get through its {kind} inputs")
    found = Expected(outputs, time.perf_counter() - start)
    write_atomically(path, json.dumps(asdict(found)))
    return found
