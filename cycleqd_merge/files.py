"""Atomic writes: files and folders appear under their final name only once they are complete.

They are written next to their destination, on the same file system, and renamed at the end. Readers see either the old
content or the new, never a part of it; if an error interrupts the writing, the unfinished content is removed.
"""

from __future__ import annotations

import errno
import glob
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cycleqd_merge.errors import CycleQDError, InfrastructureError, RecipeError

_REMEDIES = {  # of errors that only writing can cause
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space or raise the quota",
    errno.EFBIG: "choose a file system that allows files of this size, or raise the limit (`ulimit -f`)",
    errno.EROFS: "choose a different folder",
}


def write_failure(error: BaseException) -> str | None:
    """The reason for a failed write, such as a full disk, and what to do; None if `error` is something else.

    Libraries written in Rust, such as safetensors, raise their own errors with the system's number in the text.
    """
    seen = set[int]()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        stated = re.search(r"\(os error (\d+)\)", str(cause))
        number = cause.errno if isinstance(cause, OSError) else int(stated[1]) if stated else None
        if number in _REMEDIES:
            return f"{os.strerror(number)}; {_REMEDIES[number]}"
        cause = cause.__cause__ or cause.__context__
    return None


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Report a failed write in the block as one of `path`.

    Raises:
        InfrastructureError: the disk is full, or the file system cannot be written.
    """
    try:
        yield
    except CycleQDError:
        raise
    except Exception as error:  # safetensors, tokenizers and mergekit have errors of their own for failed writes
        reason = write_failure(error)
        if reason is None:
            raise
        raise InfrastructureError(f"{path}: cannot be written: {reason}") from error


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A temporary path to write a file to; at the end it is renamed to `path`, replacing an existing file.

    Raises:
        InfrastructureError: the disk is full, or the file system cannot be written.
        OSError: the folder is missing or may not be written, or the `with` block wrote no file.
    """
    unfinished = path.with_name(f".{secrets.token_hex(8)}.part")  # short: `path` may have the longest name allowed
    try:
        with writing(path):
            yield unfinished
            unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write a small file; it is on disk when this returns. Text is encoded as UTF-8.

    Raises:
        InfrastructureError, OSError: the file cannot be written, see `new_file`.
    """
    with new_file(path) as unfinished, unfinished.open("wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


def write_private(path: Path, data: bytes | str) -> None:
    """As `write_atomically`, for a file that only its owner may read.

    Raises:
        InfrastructureError, OSError: the file cannot be written, see `new_file`.
    """
    with new_file(path) as unfinished, open(unfinished, "xb", opener=_private) as file:
        file.write(data.encode() if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder to fill; it is then renamed to `path`, readable by everyone. An empty `path` is replaced.

    Raises:
        RecipeError, InfrastructureError: see `scratch_folder`.
    """
    with scratch_folder(path) as unfinished:
        yield unfinished
        unfinished.chmod(0o755)
        unfinished.replace(path)


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """A temporary folder next to `path`, on its file system; it is removed at the end unless it was renamed.

    After an error, folders above it that did not exist before are removed too.

    Raises:
        RecipeError: the folder cannot be created.
        InfrastructureError: the disk is full, or the file system cannot be written.
    """
    created = [each for each in path.absolute().parents if not each.exists()]
    folder = None
    try:
        with writing(path):
            folder = _new_scratch_folder(path)
            yield folder
    except BaseException:
        _remove(folder)
        for each in created:
            with suppress(OSError):  # not created, or other files are in it
                each.rmdir()
        raise
    _remove(folder)


def _new_scratch_folder(path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        if error.errno != errno.EROFS and write_failure(error) is not None:
            raise
        nearest = next(each for each in path.absolute().parents if each.exists())
        reason = error.strerror if nearest.is_dir() else f"{nearest} is not a folder"
        raise RecipeError(f"{path}: cannot be written: {reason}; choose a different folder") from error


def _remove(folder: Path | None) -> None:
    if folder is not None:
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
