"""What validation and `show` import loads no model library."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"torch", "transformers", "mergekit", "peft", "accelerate", "datasets", "ray", "vllm"}


@pytest.mark.parametrize(
    "module",
    [
        "evaluation.engines.engine",
        "evaluation.failures",
        "evaluation.pools.cluster",
        "evaluation.pools.pool",
        "evaluation.worker",
        "event_loop",
        "merging.groups",
        "merging.model_references",
        "merging.revisions",
    ],
)
def test_importing_it_is_cheap(module: str) -> None:
    program = f"import sys, cycleqd_merge.{module}; print(*sorted({HEAVY!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []
