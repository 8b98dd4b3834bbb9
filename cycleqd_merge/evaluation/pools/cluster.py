"""The GPUs of this host or of a Ray cluster, and the number of workers that fit on them."""

from __future__ import annotations

import logging
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.errors import RecipeError, causes, first_line
from cycleqd_merge.machine_errors import machine_failure

log = logging.getLogger(__name__)
_ANSWER_SECONDS, _JOIN_SECONDS = 10.0, 60.0
_SMALL = 64 * 2**20
_START = "start one with `ray start --head`, correct `ray_address`, or remove it to use this host alone"
_SAID = "RAY: "
_JOIN = f"""
import logging, sys
try:
    import ray
    ray.init(address=sys.argv[1], include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
except BaseException as error:
    while error is not None:
        print({_SAID!r} + " ".join(f"{{type(error).__name__}}: {{error}}".split()))
        error = error.__cause__ or error.__context__
    sys.exit(1)
ray.shutdown()
"""


def connect(address: str | None) -> None:
    """Connect to the Ray cluster at `address`; if None, start one on this host, whatever RAY_ADDRESS says.

    Raises:
        RecipeError: there is no cluster at the address, it refuses this process, or none can be started.
    """
    import ray

    if address is None:
        _require_room()
    else:
        _require_cluster(address)
    try:
        with _own_temporary_folder():
            ray.init(
                address=address or "local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
            )
    except Exception as error:  # Ray raises its base class too
        if address is None:
            reason = machine_failure(error) or first_line(error)
            raise RecipeError(f"ray: cannot be started on this host: {reason}") from error
        said = "\n".join(f"{type(each).__name__}: {each}" for each in causes(error))
        raise RecipeError(_refusal(address, said)) from error


def _require_cluster(address: str) -> None:
    """Check that this process can join a cluster. In a child: Ray waits for a missing one for hours, and may exit.

    Raises:
        RecipeError: it cannot.
    """
    stated = os.environ.get("RAY_ADDRESS") if address == "auto" else address
    host, _, port = (stated or "").rpartition("://")[2].rpartition(":")
    label = f"{address} (RAY_ADDRESS={stated})" if stated and stated != address else address
    if stated and port.isdigit() and host:
        try:
            socket.create_connection((host.strip("[]"), int(port)), _ANSWER_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise RecipeError(f"ray: no cluster at {label}: {first_line(error)}; {_START}") from error
    command = [sys.executable, "-P", "-c", _JOIN, address]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_JOIN_SECONDS, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise RecipeError(f"ray: no cluster at {label}: no answer in {_JOIN_SECONDS:.0f} s; {_START}") from None
    said = done.stdout.decode(errors="replace") + done.stderr.decode(errors="replace")
    if done.returncode != 0:
        raise RecipeError(_refusal(label, said))


def _refusal(label: str, said: str) -> str:
    """Why a cluster cannot be joined, by what Ray said."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if (at := said.find("Version mismatch")) >= 0:
        versions = " ".join(said[at:].split())
        details = re.findall(r"(?:Ray|Python): [\w.+-]+", versions)
        shown = f" ({' and '.join(details[:2])} there, {' and '.join(details[2:4])} here)" if len(details) >= 4 else ""
        return f"ray: the cluster at {label} has another version of Ray or Python{shown}; install the cluster's"
    if re.search(r"authenticat|unauthori|\btoken\b", said, re.IGNORECASE):
        remedy = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's token"
        return f"ray: the cluster at {label} refuses this process's token, or it has none; {remedy}"
    reason = next((line for line in lines if line.startswith(_SAID)), lines[-1] if lines else "no answer")
    return f"ray: no cluster at {label}: {reason.removeprefix(_SAID)}; {_START}"


def _require_room() -> None:
    """Warn of a small shared memory: Ray would use the disk in its place, which is slow."""
    try:
        found = os.statvfs("/dev/shm")
    except OSError:
        return
    free = found.f_bavail * found.f_frsize
    if free < _SMALL:
        log.warning("/dev/shm has %d MiB free; give the container more (`--shm-size=1g`) for fast workers", free >> 20)


@contextmanager
def _own_temporary_folder() -> Iterator[None]:
    """Let Ray use a folder of this user's if /tmp/ray is somebody else's."""
    usual = Path(tempfile.gettempdir()) / "ray" if "RAY_TMPDIR" not in os.environ else None
    if usual is None or not usual.exists() or os.access(usual, os.W_OK | os.X_OK):
        yield
        return
    os.environ["RAY_TMPDIR"] = str(usual.with_name(f"ray-{os.getuid()}"))
    try:
        yield
    finally:
        del os.environ["RAY_TMPDIR"]


def worker_count(recipe: Recipe) -> int:
    """The number of workers that a recipe asks for. `auto`: as many as fit on the GPUs of its Ray cluster, or of this
    host; one if there are no GPUs."""
    if recipe.workers != "auto":
        return recipe.workers
    each = gpus_per_worker(recipe)
    return max(int(_gpus(recipe) / each), 1) if each else 1


def workers_per_host(workers: int, gpus: float) -> int:
    """The number of workers, out of `workers`, that may run on one host of the cluster: on the one with most GPUs.

    gpus: per worker; if 0, all workers may run on one host.

    Raises:
        RecipeError: no host has enough GPUs for a worker.
    """
    import ray

    if not gpus:
        return workers
    largest = max(int(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"])
    if gpus > largest:
        what = f"a worker needs {gpus:g} GPUs on one host, but no host has more than {largest}"
        raise RecipeError(f"engine.options.tensor_parallel_size: {what}")
    return min(workers, int(largest / gpus))


def _gpus(recipe: Recipe) -> int:
    if recipe.ray_address is None:
        import torch

        return torch.cuda.device_count()
    import ray

    if not ray.is_initialized():
        connect(recipe.ray_address)
    return int(ray.cluster_resources().get("GPU", 0))


def gpus_per_worker(recipe: Recipe) -> float:
    """GPUs per worker; if several share one, a fraction of it, in Ray's unit of 1/10,000."""
    engine = recipe.engine
    if _gpus(recipe) == 0:
        return 0
    if engine.kind != "vllm":
        return 1
    if engine.per_gpu > 1:
        return 10_000 // engine.per_gpu / 10_000
    return int(engine.options.get("tensor_parallel_size", 1))
