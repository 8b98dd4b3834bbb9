"""The cache, whose contents later runs reuse."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path


def cache_folder(kind: str) -> Path:
    """The cache folder for one kind of data, created if absent: in $CYCLEQD_CACHE, or in the user's cache folder."""
    root = os.environ.get("CYCLEQD_CACHE")
    folder = (Path(root) if root else user_cache_path("cycleqd-merge")) / kind
    folder.mkdir(parents=True, exist_ok=True)
    return folder
