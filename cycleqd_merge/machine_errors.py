"""Errors of the machine in one line each: no folder to write to, no more files, processes or memory, no locks."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path

from cycleqd_merge.cache import cache_root
from cycleqd_merge.errors import CycleQDError, causes, first_line

_REMEDIES = {
    errno.EMFILE: "too many open files; raise the limit (`ulimit -n`), or use fewer workers",
    errno.ENFILE: "too many open files on this machine; close other programs",
    errno.EAGAIN: "no further process can be started; raise the limit (`ulimit -u`, or the container's)",
    errno.ENOMEM: "out of memory; use a larger machine, or fewer workers",
    errno.ENOLCK: "the file system has no file locks; choose a folder on a different file system",
    errno.ENOTSUP: "the file system does not support this; choose a folder on a different file system",
    errno.ENAMETOOLONG: "the path is too long; choose a shorter one",
    errno.ELOOP: "its symbolic links lead in a circle; choose a different path",
    errno.ESTALE: "the network file system lost it; mount it again, then try again",
}
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOENT)


def machine_failure(error: BaseException) -> str | None:
    """An explanation of an error that the machine caused, with a remedy; None if `error` is something else."""
    return next(filter(None, map(_failure, causes(error))), None)


def _failure(error: BaseException) -> str | None:
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return f"threads: {_REMEDIES[errno.EAGAIN]}"
    if isinstance(error, MemoryError):
        return f"memory: {_REMEDIES[errno.ENOMEM]}"
    if type(error).__name__ == "OutOfMemoryError":  # torch's, whose import takes seconds
        found = re.search(r"GPU \d+ has a total capacity of [\d.]+ \w+ of which [\d.]+ \w+ is free", str(error))
        shortage = first_line(error) if found is None else found[0]
        return f"GPU memory: {shortage}; end other processes on the GPU, or set a smaller engine.batch_size"
    if isinstance(error, RuntimeError) and re.search("determine (the )?home", str(error)):
        return "this user has no home folder; set HOME to a folder that you may write"
    if isinstance(error, ImportError) and "SOCKS proxy" in str(error):
        return f"{first_line(error).rstrip('.')}, or unset HTTPS_PROXY, HTTP_PROXY and ALL_PROXY"
    if isinstance(error, ValueError) and "IPv6 URL" in str(error):
        return f"Hub: {first_line(error)}; correct HF_ENDPOINT"
    if isinstance(error, Warning):
        what = f"{type(error).__name__} of a library: {first_line(error)}"
        return f"{what}; PYTHONWARNINGS or -W makes it an error: unset it"
    if not isinstance(error, OSError):
        return None
    if isinstance(error, FileNotFoundError) and error.filename is None and not _has_current_folder():
        return "the current folder no longer exists; change to a different one (`cd`)"
    if "No usable temporary directory" in str(error):
        folders = str(error.args[-1]).partition("found in ")[2] or "the usual places"
        return f"no temporary folder can be written (tried {folders}); set TMPDIR to a folder that you may write"
    place = "" if error.filename is None else f"{_text(error.filename)}: "
    if error.errno in _REMEDIES:
        return f"{place}{_REMEDIES[error.errno]}"
    if error.errno in _DENIED and error.filename is not None:
        remedy = _variable(Path(_text(error.filename)))
        if remedy is not None:
            return f"{place}{error.strerror}; {remedy}"
        if isinstance(error, PermissionError) or error.errno == errno.EROFS:
            return f"{place}{error.strerror}; make it accessible, or choose a different path"
    return None


def _variable(path: Path) -> str | None:
    """The variable that moves a path elsewhere."""
    from huggingface_hub import constants  # late: it takes time

    folders: list[tuple[str, Path]] = [
        ("HF_HOME", Path(constants.HF_HOME)),
        ("HF_HOME", Path(constants.HF_HUB_CACHE)),
    ]
    with suppress(CycleQDError):
        folders.insert(0, ("CYCLEQD_CACHE", cache_root()))
    for name, folder in folders:
        if path.absolute().is_relative_to(folder.absolute()):
            return f"set {name} to a folder that you may write"
    if tempfile.tempdir is not None and path.absolute().parent == Path(tempfile.tempdir):
        return "set TMPDIR to a folder that you may write"
    return None


def _has_current_folder() -> bool:
    try:
        os.getcwd()
    except OSError:
        return False
    return True


def _text(path: object) -> str:
    return os.fsdecode(path) if isinstance(path, str | bytes) else str(path)
