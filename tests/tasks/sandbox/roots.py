"""Where tests find the root file system that was built for them."""

from __future__ import annotations

import os
from pathlib import Path


def link_roots(cache: Path) -> None:
    """Let the tests' cache have the roots of the user's, or of the folder that CYCLEQD_ROOTFS names."""
    built = Path(os.environ.get("CYCLEQD_ROOTFS", Path.home() / ".cache" / "cycleqd-merge" / "rootfs"))
    if not (built / "default").is_dir():
        raise FileNotFoundError(f"{built}: no root `default`; build it: `sudo cycleqd-merge sandbox build`")
    if not (cache / "rootfs").exists():
        (cache / "rootfs").symlink_to(built, target_is_directory=True)
