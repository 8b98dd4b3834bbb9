"""Where things are kept that later runs use again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(kind: str) -> Path:
    """The folder for one kind of cached thing, made if absent: under $CYCLEQD_CACHE, or the user's cache."""
    root = os.environ.get("CYCLEQD_CACHE")
    base = Path(root) if root else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "cycleqd-merge"
    folder = base / kind
    folder.mkdir(parents=True, exist_ok=True)
    return folder
