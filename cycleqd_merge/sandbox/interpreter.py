"""The Python of boxes without a root file system: this environment's interpreter and numpy, and no other package."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from cycleqd_merge.sandbox.owners import is_dead, own_name

PREFIX = "/python"
"""Folder of a box that holds the interpreter, unless it is the system's, and always numpy."""
_LIBRARY = Path(os.__file__).resolve().parent  # the standard library, such as .../lib/python3.12
PACKAGES = f"{PREFIX}/{_LIBRARY.parent.name}/{_LIBRARY.name}/site-packages"
"""Folder of a box that holds numpy: below the interpreter, because conda's numpy finds its libraries from there."""
VARIABLES = {
    "PYTHONPATH": PACKAGES,
    "PYTHONHASHSEED": "0",  # sets of strings have the same order in the reference's box and in the program's
    "PYTHONDONTWRITEBYTECODE": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",  # a thread per core of the host would exceed a box's limits
    "MKL_NUM_THREADS": "1",
}
_LOCK = threading.Lock()
OPTIONS = ("-P", "-s", "-S")
"""Options of the interpreter: modules come from its standard library and `PACKAGES` alone."""
SHOW_VERSIONS = (
    "import platform, numpy; print('Python', platform.python_version(), 'with numpy', numpy.__version__, end='')"
)
"""A program that prints what a box holds, in one line."""


@dataclass(frozen=True)
class BoundPython:
    """How boxes of bubblewrap see the interpreter: its command, folders and files of the host, and variables.

    mounts: pairs of a path on the host and one in the box. hidden: a folder of the box to hide, or None.
    """

    command: str
    mounts: tuple[tuple[str, str], ...]
    hidden: str | None
    variables: dict[str, str]


def numpy_version() -> str:
    return version("numpy")


def python_release() -> str:
    """The release of this Python that images exist of, such as 3.12."""
    return ".".join(platform.python_version_tuple()[:2])


@functools.cache
def bound_python() -> BoundPython:
    """This environment's interpreter, outside of any virtual environment."""
    executable = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    numpy = _numpy_mounts()
    if executable.is_relative_to("/usr") and _LIBRARY.is_relative_to("/usr"):
        return BoundPython(str(executable), numpy, None, VARIABLES)
    command = f"{PREFIX}/bin/{executable.name}"
    mounts = [(str(executable), command), (str(_LIBRARY.parent), f"{PREFIX}/{_LIBRARY.parent.name}")]
    variables = dict(VARIABLES)
    if shared := _shared_library():  # linked by its path on the host, unless the interpreter can be moved
        mounts.append((str(shared), f"{PREFIX}/shared/{shared.name}"))
        variables["LD_LIBRARY_PATH"] = f"{PREFIX}/shared"
    hidden = PACKAGES if (_LIBRARY / "site-packages").is_dir() else None
    return BoundPython(command, (*mounts, *numpy), hidden, variables)


def _numpy_mounts() -> tuple[tuple[str, str], ...]:
    """numpy's folder, and the one that its wheels keep shared libraries in."""
    found = importlib.util.find_spec("numpy")
    assert found is not None
    assert found.origin is not None
    folder = Path(found.origin).resolve().parent
    folders = (folder, folder.with_name("numpy.libs"))
    return tuple((str(path), f"{PACKAGES}/{path.name}") for path in folders if path.is_dir())


def _shared_library() -> Path | None:
    """The library of a Python that is built with one, found by what this process has mapped."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = Path(line.split(maxsplit=5)[-1])
        if path.name.startswith("libpython") and path.is_file():
            return path
    return None


def unreachable(paths: Sequence[str]) -> list[str]:
    """Those of these paths of the host that other users cannot reach, such as files below root's home."""
    return [path for path in paths if not all(folder.stat().st_mode & 0o001 for folder in Path(path).parents)]


@functools.cache
def _staging() -> tempfile.TemporaryDirectory[str]:
    for left in Path("/tmp").glob("cycleqd-python-*-*-*-*"):  # by processes that were killed
        owner = left.name.removeprefix("cycleqd-python-").rpartition("-")[0]
        with contextlib.suppress(OSError):
            if left.stat().st_uid == os.geteuid() and is_dead(owner):
                shutil.rmtree(left)
    folder = tempfile.TemporaryDirectory(prefix=f"cycleqd-python-{own_name()}-", dir="/tmp")
    Path(folder.name).chmod(0o755)
    return folder


def staged(path: str) -> str:
    """An empty folder or file, which any user can reach, to mount a path on; it is removed when this process ends."""
    with _LOCK:  # two threads would make two folders, of which the cache keeps one, and the other one is removed
        place = Path(_staging().name, path.replace("/", "-"))
        if Path(path).is_dir():
            place.mkdir(mode=0o755, exist_ok=True)
        else:
            place.touch(mode=0o755)
    return str(place)
