"""What several kinds of tasks need of the host: a root file system that was built for sandboxes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cycleqd_merge.tasks.sandbox.protocol import Root


@pytest.fixture(scope="session")
def own_root(cache: Path) -> Root:
    """The root file system that `cycleqd-merge sandbox build` made: the user's, or one in $CYCLEQD_ROOTFS."""
    built = Path(os.environ.get("CYCLEQD_ROOTFS", Path.home() / ".cache" / "cycleqd-merge" / "rootfs"))
    if not (built / "default").is_dir():
        raise FileNotFoundError(f"{built}: no root `default`; build it: `sudo cycleqd-merge sandbox build`")
    (cache / "rootfs").mkdir(exist_ok=True)
    (cache / "rootfs" / "default").symlink_to(built / "default", target_is_directory=True)
    return Root("default")
