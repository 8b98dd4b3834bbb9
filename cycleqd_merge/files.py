"""Atomic writes: files and folders appear under their final name only once they are complete.

They are written next to their destination, on the same file system, and renamed at the end. Readers see either the old
content or the new, never a part of it; if an error interrupts the writing, the unfinished content is removed. What a
killed process left is removed when something is written next to it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

from cycleqd_merge.errors import CycleQDError, InfrastructureError, RecipeError, causes

_REMEDIES = {  # of errors that only writing can cause
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space or raise the quota",
    errno.EFBIG: "choose a file system that allows files of this size, or raise the limit (`ulimit -f`)",
    errno.EROFS: "choose a different folder",
    errno.ENOLCK: "choose a folder on a file system with file locks",
}
_LOCK = ".lock"
_SCRATCH, _UNFINISHED = ".cycleqd-", ".part"
"""The beginning and the end of a scratch folder's name; it is short: its file may have the longest name allowed."""


def write_failure(error: BaseException) -> str | None:
    """The reason for a failed write, such as a full disk, and what to do; None if `error` is something else.

    Libraries written in Rust, such as safetensors, raise their own errors with the system's number in the text.
    """
    for cause in causes(error):
        stated = re.search(r"\(os error (\d+)\)", str(cause))
        number = cause.errno if isinstance(cause, OSError) else int(stated[1]) if stated else None
        if number in _REMEDIES:
            return f"{os.strerror(number)}; {_REMEDIES[number]}"
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
    with writing(path), _scratch(path) as scratch:
        unfinished = scratch / path.name
        yield unfinished
        unfinished.replace(path)


def write_atomically(path: Path, data: bytes | str, mode: int = 0o666) -> None:
    """Write a small file; it is on disk when this returns. Text is encoded as UTF-8.

    mode: its permissions, of which the process's umask takes away some.

    Raises:
        InfrastructureError, OSError: the file cannot be written, see `new_file`.
    """
    with new_file(path) as unfinished, open(unfinished, "xb", opener=partial(os.open, mode=mode)) as file:
        file.write(data.encode() if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())
    with writing(path):
        sync_folder(path.parent)


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
    """A temporary folder on the file system of `path`; it is removed at the end unless it was renamed.

    After an error, folders above it that did not exist before are removed too.

    Raises:
        RecipeError: the folder cannot be created, or `path` is a link.
        InfrastructureError: the disk is full, or the file system cannot be written.
    """
    created = [each for each in path.absolute().parents if not each.exists()]
    try:
        with writing(path), ExitStack() as stack:
            yield _new_scratch_folder(path, stack)
    except BaseException:
        for each in created:
            with suppress(OSError):  # not created, or other files are in it
                each.rmdir()
        raise


def _new_scratch_folder(path: Path, stack: ExitStack) -> Path:
    if path.is_symlink():  # a folder cannot replace it
        raise RecipeError(f"{path}: is a link; choose a different folder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = stack.enter_context(_scratch(path)) / path.name
        folder.mkdir(mode=0o700)
        return folder
    except OSError as error:
        if error.errno != errno.EROFS and write_failure(error) is not None:
            raise
        nearest = next(each for each in path.absolute().parents if each.exists())
        reason = error.strerror if nearest.is_dir() else f"{nearest} is not a folder"
        raise RecipeError(f"{path}: cannot be written: {reason}; choose a different folder") from error


@contextmanager
def _scratch(path: Path) -> Iterator[Path]:
    """A folder next to `path` for one unfinished version of it, locked by this process; removed at the end.

    Those in the same folder whose process was killed, for this path or others, are removed first: nobody holds their
    locks.
    """
    for earlier in path.parent.glob(f"{_SCRATCH}*{_UNFINISHED}"):
        _remove_if_abandoned(earlier)
    scratch, lock = _locked_folder(path.parent)
    try:
        yield scratch
    finally:
        _remove_scratch(scratch)
        os.close(lock)


def _locked_folder(parent: Path) -> tuple[Path, int]:
    """A new folder with a locked file in it; returns the file's descriptor, too."""
    while True:
        scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH, suffix=_UNFINISHED, dir=parent))
        descriptor = -1
        try:
            descriptor = os.open(scratch / _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            with suppress(OSError):  # a file system without locks: what a killed process leaves there stays
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink > 0:
                return scratch, descriptor
        except FileNotFoundError:
            pass  # another process took it for an abandoned one before the lock was held
        except BaseException:
            _remove_scratch(scratch)
            if descriptor >= 0:
                os.close(descriptor)
            raise
        if descriptor >= 0:
            os.close(descriptor)


def _remove_if_abandoned(scratch: Path) -> None:
    with suppress(OSError):  # in use, on a file system without locks, or removed by another process
        status = scratch.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            return  # somebody else put it there, for example in a temporary folder that all users share
        try:
            descriptor = os.open(scratch / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
        except FileNotFoundError:
            scratch.rmdir()  # its process was killed before it created the lock, or after it removed it
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove_scratch(scratch)
        finally:
            os.close(descriptor)


def _remove_scratch(scratch: Path) -> None:
    """Remove a scratch folder, its lock last: until then, it can be recognised as abandoned."""
    with suppress(OSError):
        for each in scratch.iterdir():
            if each.name == _LOCK:
                continue
            if each.is_dir() and not each.is_symlink():
                shutil.rmtree(each, ignore_errors=True)
            else:
                each.unlink()
        (scratch / _LOCK).unlink(missing_ok=True)
        scratch.rmdir()


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's contents."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_version(path: Path) -> str:
    """A text that changes with the file at `path`: where it is, its size, and when and as which inode it was written.

    The time of its last change of status (ctime) counts too: no program can set it, as it can the modification time.
    """
    status = path.stat()
    facts = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return "|".join(map(str, (path.resolve(), *facts)))


def sync_folder(folder: Path) -> None:
    """Write a folder's directory entries to disk, so that new files in it survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
