"""The cache, whose contents later runs reuse, and the caches of libraries that need a folder."""

from __future__ import annotations

import atexit
import errno
import os
import shutil
import tempfile
from pathlib import Path

from platformdirs import user_cache_path

from cycleqd_merge.errors import RecipeError, first_line

_LIBRARIES = ("MPLCONFIGDIR", "TRITON_CACHE_DIR", "VLLM_CACHE_ROOT", "VLLM_CONFIG_ROOT", "FLASHINFER_WORKSPACE_BASE")
"""Variables that name the folders of libraries which would otherwise use the home folder."""


def cache_root() -> Path:
    """The folder that contains all our caches: $CYCLEQD_CACHE, or one in the user's cache folder.

    Raises:
        RecipeError: there is no home folder, and neither variable names another.
    """
    root = os.environ.get("CYCLEQD_CACHE")
    if root:
        return Path(root)
    try:
        return user_cache_path("cycleqd-merge")
    except RuntimeError as error:
        raise RecipeError(
            "cache: this user has no home folder; set CYCLEQD_CACHE to a folder that you may write"
        ) from error


def cache_folder(kind: str) -> Path:
    """The cache folder for one kind of data, created if absent: in $CYCLEQD_CACHE, or in the user's cache folder.

    Raises:
        RecipeError: it cannot be created or written.
    """
    folder, full = cache_root() / kind, False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        reason = None if os.access(folder, os.W_OK | os.X_OK) else "may not be written by this user"
    except FileExistsError:
        reason = "a file is in the way"
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    if reason is not None and not (kind == "rootfs" and folder.is_dir()):  # an image may contain those, read-only
        remedy = "free some space, or " if full else ""
        raise RecipeError(
            f"cache folder {folder}: cannot be used: {reason}; {remedy}set CYCLEQD_CACHE to a folder that you may write"
        )
    return folder


def private_folder(kind: str) -> Path:
    """As `cache_folder`; if it cannot be used, a temporary folder, which is removed when this process ends.

    Raises:
        FileNotFoundError: there is no temporary folder either.
    """
    try:
        return cache_folder(kind)
    except RecipeError:
        folder = tempfile.mkdtemp(prefix=f"cycleqd-{kind}-")  # readable by this user alone: caches contain code
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)


def give_numba_a_cache() -> None:
    """Let numba, which ribs imports, compile where neither its own folder nor the home folder can be written.

    It fails to import otherwise. Call this before ribs is imported.
    """
    if not os.environ.get("NUMBA_CACHE_DIR"):
        os.environ["NUMBA_CACHE_DIR"] = str(private_folder("numba"))


def give_libraries_folders() -> None:
    """Without a home folder that can be written, name folders for the libraries that need one.

    The Hub's client is not among them: it would download models to a folder that nobody expects. See HF_HOME.
    """
    missing = [variable for variable in _LIBRARIES if not os.environ.get(variable)]
    if not missing or _is_writable(Path(os.path.expanduser("~"))):
        return
    try:
        folder = private_folder("libraries")
    except OSError:
        return  # what needs one reports it
    for variable in missing:
        os.environ[variable] = str(folder / variable.partition("_")[0].lower())


def _is_writable(folder: Path) -> bool:
    return folder.is_absolute() and os.access(folder, os.W_OK | os.X_OK)
