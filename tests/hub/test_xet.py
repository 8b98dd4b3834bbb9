"""Push and download through Xet, which clients use by default, in processes with Xet enabled."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from tests.hub.conftest import ANN, TOKEN
from tests.hub.server import LocalHub

PUSH_TWICE = """
from cycleqd_merge.cli import main
for _ in range(2):
    try:
        main()
    except SystemExit as ended:
        assert not ended.code
"""
DOWNLOAD = "from huggingface_hub import hf_hub_download as get; print(get('ann/run', 'model.safetensors'), end='')"


def test_push_and_download_through_xet(run: Path, tmp_path: Path) -> None:
    with LocalHub([ANN], xet=True) as hub:
        inherited = {key: value for key, value in os.environ.items() if key != "HF_HUB_DISABLE_XET"}
        shared = {**inherited, "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0"}

        def python(code: str, home: str, *arguments: str) -> str:
            environment = {**shared, "HF_HOME": str(tmp_path / home)}
            command = [sys.executable, "-c", code, *arguments]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, done.stderr
            return done.stdout

        pushed = python(PUSH_TWICE, "pushing", "push", str(run), "--repo", "ann/run")
        assert pushed.count("nothing has changed") == 2  # of two repositories, the second time
        repo = hub.repo("ann/run")
        digest = repo.tree()["model.safetensors"].sha256
        assert digest in hub.xet_hashes
        assert len(repo.history()) == 2
        assert "blob" not in hub.steps()
        downloaded = Path(python(DOWNLOAD, "downloading"))
        assert downloaded.is_relative_to(tmp_path / "downloading")
        assert hashlib.sha256(downloaded.read_bytes()).hexdigest() == digest
