"""The GPUs of this host or of a Ray cluster, and how many workers they have room for."""

from __future__ import annotations

import logging

from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.errors import UserError


def connect(address: str | None) -> None:
    """Join the Ray cluster at `address`, or start one on this host.

    Raises:
        UserError: there is none.
    """
    import ray

    try:
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        raise UserError(f"ray: no cluster at {address}: {error}") from error


def worker_count(recipe: Recipe) -> int:
    """The workers that a recipe asks for; `auto`: as many as the GPUs of the cluster that it names, or of this host,
    have room for, and one without any."""
    if recipe.workers != "auto":
        return recipe.workers
    own = gpus_per_worker(recipe)
    return max(int(_gpus(recipe) / own), 1) if own else 1


def neighbours(workers: int, gpus: float) -> int:
    """How many of so many workers the largest host of the cluster takes, which they must share. gpus: of one worker.

    Raises:
        UserError: not even one.
    """
    import ray

    if not gpus:
        return workers
    largest = max(int(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"])
    if gpus > largest:
        raise UserError(
            f"engine.options.tensor_parallel_size: a worker needs {gpus:g} GPUs of one host, and the largest has "
            f"{largest}"
        )
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
    """GPUs of a worker; a part of one, in the ten-thousandths that Ray counts, where several share it."""
    engine = recipe.engine
    if _gpus(recipe) == 0:
        return 0
    if engine.kind != "vllm":
        return 1
    if engine.per_gpu > 1:
        return 10_000 // engine.per_gpu / 10_000
    return int(engine.options.get("tensor_parallel_size", 1))
