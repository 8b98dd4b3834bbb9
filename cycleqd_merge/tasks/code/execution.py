"""Running programs in boxes: the values that a function returns for given inputs. The texts are not trusted."""

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
from cycleqd_merge.cache_entries import read_entry, write_entry
from cycleqd_merge.errors import InfrastructureError
from cycleqd_merge.sandbox.boxes import run_once
from cycleqd_merge.sandbox.protocol import MIB, Limits, Provider
from cycleqd_merge.sandbox.providers import Sandbox
from cycleqd_merge.tasks.code.grading import is_error
from cycleqd_merge.tasks.code.problems import CodeProblem

_HERE = Path(__file__).parent
RUNNER = "\n".join((_HERE / name).read_text(encoding="utf-8") for name in ("values.py", "runner.py"))
"""The program that runs in a box: it reads a request from standard input and writes one line per input."""
_READY = b"ready\n"


@dataclass(frozen=True)
class ExpectedValues:
    """The reference solution's return values, a text per input (see `to_text`), and the seconds that it took."""

    outputs: list[str]
    seconds: float


async def returned_values(
    provider: Provider, program: str, entry_point: str, inputs: Sequence[Any], limits: Limits
) -> list[str] | None:
    """The return values of a program's function for packed inputs, a text each; None if it did not complete and end.

    Raises:
        InfrastructureError: the host cannot start a box.
    """
    request = json.dumps({"program": program, "entry_point": entry_point, "inputs": inputs}).encode()
    finished = await run_once(provider, [*provider.python(), "-c", RUNNER], request, limits, ready=_READY)
    outputs = finished.output.decode(errors="replace").split("\n")[:-1]
    has_ended = finished.code is not None  # a program that returns the right values, but never ends, is not correct
    return outputs if has_ended and len(outputs) == len(inputs) and not finished.truncated else None


async def expected_values(sandbox: Sandbox, problem: CodeProblem, inputs: Sequence[Any], kind: str) -> ExpectedValues:
    """The reference solution's return values: computed in a box once, then kept in the cache. kind: for errors.

    Other versions of Python or numpy may return other values, so they are part of the cache's key.

    Raises:
        InfrastructureError: the solution does not run.
    """
    key = hashlib.sha256(
        json.dumps([sandbox.python, RUNNER, problem.solution, problem.entry_point, inputs]).encode()
    ).hexdigest()
    path = cache_folder("expected") / f"{key[:32]}.json"
    stored = await asyncio.to_thread(read_entry, path)
    if stored is not None:
        return ExpectedValues(**json.loads(stored))
    start = time.perf_counter()
    limits = Limits(memory=4096 * MIB, output=256 * MIB, seconds=120.0)
    outputs = await returned_values(sandbox.provider, problem.solution, problem.entry_point, inputs, limits)
    if outputs is None or any(map(is_error, outputs)):
        raise InfrastructureError(f"{problem.task_id}: its reference solution fails on its {kind} inputs")
    found = ExpectedValues(outputs, time.perf_counter() - start)
    write_entry(path, json.dumps(asdict(found)))
    return found
