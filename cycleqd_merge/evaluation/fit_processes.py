"""Several processes of one host learn a fit together: each takes other rows of every step.

Run as a module, this is one of the processes that a worker starts; it ends when the worker does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

from cycleqd_merge.errors import CycleQDError, InfrastructureError
from cycleqd_merge.evaluation.fit_memory import ALONE, Sharers
from cycleqd_merge.evaluation.fits import learn_fits
from cycleqd_merge.fitting.job import FitJob
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.materialiser_spec import MaterialiserSpec, open_materialiser
from cycleqd_merge.merging.processes import free_port, from_main_process, in_group, this_process

_READY = "ready"


@contextmanager
def helped(materialiser: Materialiser, jobs: Sequence[FitJob], processes: int, sharers: Sharers) -> Iterator[None]:
    """Within this context, `learn_fits` shares its work with `processes` - 1 others, each on a device of its own.

    Raises:
        InfrastructureError: another process failed.
    """
    if processes == 1:
        yield
        return
    port = free_port()
    order = {"spec": MaterialiserSpec.of(materialiser).to_json(), "processes": processes, "port": port}
    with tempfile.TemporaryFile("w+") as errors:
        others = [_start({**order, "rank": rank}, errors) for rank in range(1, processes)]
        try:
            for other in others:
                assert other.stdout is not None
                if other.stdout.readline().strip() != _READY:
                    raise RuntimeError("a process could not open the models")
            with in_group(0, processes, port):
                from_main_process((list(jobs), sharers))
                yield
        except CycleQDError:  # this process's own
            raise
        except Exception as error:
            if _failed(others):
                raise InfrastructureError(f"a fit failed in another process: {_last_line(errors)}") from error
            raise
        finally:
            for other in others:
                other.kill()
                other.communicate()


def _start(order: dict[str, Any], errors: IO[str]) -> subprocess.Popen[str]:
    """Start a process. Its input stays open as long as this process lives."""
    command = [sys.executable, "-P", "-m", __name__]
    started = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True)
    assert started.stdin is not None
    started.stdin.write(json.dumps(order) + "\n")
    started.stdin.flush()
    return started


def _failed(others: Sequence[subprocess.Popen[str]]) -> bool:
    """Whether a process has failed; one that is failing gets a moment to end."""
    for other in others:
        try:
            if other.wait(timeout=2):
                return True
        except subprocess.TimeoutExpired:
            continue
    return False


def _last_line(errors: IO[str]) -> str:
    errors.seek(0)
    lines = [line.strip() for line in errors.read().splitlines() if line.strip()]
    return lines[-1] if lines else "it was killed"


def take_part() -> None:
    """Open the models, join the others, and take a share of every step."""
    order = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_worker, daemon=True).start()
    materialiser = open_materialiser(MaterialiserSpec.from_json(order["spec"]))
    sys.stdout.write(f"{_READY}\n")
    sys.stdout.flush()
    with in_group(order["rank"], order["processes"], order["port"]):
        materialiser = Materialiser(materialiser.family, materialiser.groups, materialiser.bases, this_process().device)
        for _ in learn_fits(materialiser, *from_main_process((list[FitJob](), ALONE))):
            pass


def _end_with_the_worker() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    take_part()
