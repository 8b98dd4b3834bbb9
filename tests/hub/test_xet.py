"""Push and load through Xet, which clients use by default, in processes with Xet enabled."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.hub.conftest import ANN, TOKEN
from tests.hub.server import LocalHub

PUSH = "from cycleqd_merge.cli import main; main()"
LOAD = "from transformers import AutoModelForCausalLM as A; A.from_pretrained('ann/run')"


def test_push_and_load_through_xet(run: Path, tmp_path: Path) -> None:
    with LocalHub([ANN], xet=True) as hub:
        inherited = {key: value for key, value in os.environ.items() if key != "HF_HUB_DISABLE_XET"}
        shared = {**inherited, "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0"}

        def python(code: str, home: str, *arguments: str) -> str:
            environment = {**shared, "HF_HOME": str(tmp_path / home)}
            command = [sys.executable, "-c", code, *arguments]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, done.stderr
            return done.stdout

        python(PUSH, "pushing", "push", str(run), "--repo", "ann/run")
        repo = hub.repo("ann/run")
        assert repo.tree()["model.safetensors"].sha256 in hub.xet_hashes
        assert len(repo.history()) == 2
        assert "blob" not in hub.steps()
        python(LOAD, "loading")
        assert python(PUSH, "pushing", "push", str(run), "--repo", "ann/run").count("nothing has changed") == 2
        assert len(repo.history()) == 2
