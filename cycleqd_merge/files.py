"""Atomic writes: files and folders appear under their final name only once they are complete.

They are written next to their destination, on the same file system, and renamed at the end. Readers see either the old
content or the new, never a part of it; if an error interrupts the writing, the unfinished content is removed.
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
    """A temporary path to write a file to; at the end it is renamed to `path`, replacing an existing file.

    Raises:
        OSError: the file cannot be written, or the `with` block wrote none.
    """
    unfinished = path.with_name(f".{secrets.token_hex(8)}.part")  # short: `path` may have the longest name allowed
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write a small file; it is on disk when this returns. Text is encoded as UTF-8.

    Raises:
        OSError: the file cannot be written.
    """
    with new_file(path) as unfinished, unfinished.open("wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder to fill; it is then renamed to `path`, readable by everyone. An empty `path` is replaced.

    Raises:
        UserError: the folder cannot be created.
    """
    with scratch_folder(path) as unfinished:
        yield unfinished
        unfinished.chmod(0o755)
        unfinished.replace(path)


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """A temporary folder next to `path`, on its file system; it is removed at the end unless it was renamed.

    Raises:
        UserError: the folder cannot be created.
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
    """Remove unfinished folders for `path` that killed processes left behind; the caller must hold a lock on `path`."""
    for folder in path.parent.glob(f".{glob.escape(path.name)}.*"):
        shutil.rmtree(folder, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Write a folder's directory entries to disk, so that new files in it survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
