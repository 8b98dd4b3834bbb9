"""Folders in the cache, such as copies of models: complete and undamaged, or rebuilt."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from cycleqd_merge.cache_entries import read_entry, report_damage, write_entry
from cycleqd_merge.files import new_folder


def cached_folder(folder: Path, build: Callable[[Path], None]) -> Path:
    """`folder`, with what `build` wrote to it, now or earlier. One process at a time builds it.

    A list of its files' digests is kept next to it; if one does not match, the folder is built again.
    """
    with FileLock(f"{folder}.lock"):
        stated = read_entry(folder) if folder.is_dir() else None
        if stated is None or json.loads(stated) != _contents(folder):
            if stated is not None:  # a folder without a list is of version 0.1, or its process was killed
                report_damage(folder)
            if folder.is_dir():
                shutil.rmtree(folder)
            with new_folder(folder) as unfinished:
                build(unfinished)
            write_entry(folder, json.dumps(_contents(folder)))
    return folder


def _contents(folder: Path) -> dict[str, str]:
    """The digests of a folder's files by their relative paths; of links, what they point to."""
    from cycleqd_merge.merging.checkpoint import digest_file  # late: it imports users of this module

    contents = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            contents[name] = f"-> {path.readlink()}"
        elif path.is_file():
            contents[name] = digest_file(path)
    return contents
