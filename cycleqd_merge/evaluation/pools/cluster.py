"""The GPUs of this host or of a Ray cluster, and the number of workers that fit on them."""

from __future__ import annotations

import logging

from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.errors import RecipeError


def connect(address: str | None) -> None:
    """Connect to the Ray cluster at `address`; if None, start one on this host.

    Raises:
        RecipeError: there is no cluster at the address.
    """
    import ray

    try:
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        raise RecipeError(f"ray: no cluster at {address}: {error}") from error


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
