"""Files and folders that appear under their name only when they are complete.

They are filled next to their final place, on the same file system, and renamed at the end. A reader sees the old
content or the new, never a part of it; what an error interrupts is removed.
"""

from __future__ import annotations

import glob
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cycleqd_merge.errors import UserError


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A path to write a file to; at the end that file becomes `path`, in the place of one that exists already.

    Raises:
        OSError: it cannot be written, or the block wrote no file.
    """
    unfinished = path.with_name(f".{secrets.token_hex(8)}.part")  # short: `path` may have the longest name allowed
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write a small file; it is on disk when this returns. A text is written as UTF-8.

    Raises:
        OSError: it cannot be written.
    """
    with new_file(path) as unfinished, unfinished.open("wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill; at the end it becomes `path`, readable by everybody. An empty folder of this name is replaced.

    Raises:
        UserError: nothing can be written there.
    """
    with scratch_folder(path) as unfinished:
        yield unfinished
        unfinished.chmod(0o755)
        unfinished.replace(path)


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """A temporary folder next to `path`, on its file system; what is left of it at the end is removed.

    Raises:
        UserError: nothing can be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(path: Path) -> None:
    """Remove the unfinished folders for `path` that killed processes left; the caller holds a lock on `path`."""
    for folder in path.parent.glob(f".{glob.escape(path.name)}.*"):
        shutil.rmtree(folder, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Have the names of a folder's files on disk: that they exist survives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
