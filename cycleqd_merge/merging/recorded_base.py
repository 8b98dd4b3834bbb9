"""The base model that an adapter's configuration records, compared with the recipe's."""

from __future__ import annotations

import re
from pathlib import Path

from cycleqd_merge.merging.adapter import Adapter
from cycleqd_merge.merging.checkpoint import Checkpoint
from cycleqd_merge.merging.json_files import read_json

_CACHED = re.compile(r"models--.+?--([^/]+)/snapshots/")


def other_base(adapter: Adapter, base: Checkpoint) -> str | None:
    """The base that an adapter records, if that seems to be a different model than `base`; else None.

    Local paths differ between machines, so only the last part of a name counts.
    """
    recorded = adapter.recorded_base
    if not recorded or (Path(recorded).is_dir() and Path(recorded).samefile(base.path)):
        return None
    config = read_json(base.path / "config.json") or {}
    known = (base.reference.model.path, str(base.path.resolve()), config.get("_name_or_path") or "")
    return None if _last_part(recorded) in map(_last_part, known) else recorded


def _last_part(name: str) -> str:
    """The last part of a path or Hub id, in lower case; of a path in the Hub's cache, that of the id."""
    cached = _CACHED.search(name + "/")
    return (cached.group(1) if cached else name.rstrip("/").rpartition("/")[2]).lower()
