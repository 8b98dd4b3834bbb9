"""Where things are kept that later runs use again."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path


def cache_folder(kind: str) -> Path:
    """The folder for one kind of cached thing, made if absent: under $CYCLEQD_CACHE, or the user's cache folder."""
    root = os.environ.get("CYCLEQD_CACHE")
    folder = (Path(root) if root else user_cache_path("cycleqd-merge")) / kind
    folder.mkdir(parents=True, exist_ok=True)
    return folder
