"""Root file systems of boxes: installed by debootstrap, or unpacked from a tar file such as `docker export` writes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cycleqd_merge.cache import cache_folder
from cycleqd_merge.errors import RecipeError, TaskError
from cycleqd_merge.event_loop import run_coroutine
from cycleqd_merge.sandbox.users import first_user, user_namespace

_ROOT = "root"  # subfolder that belongs to the box's root; its parent belongs to the caller
_UNPACK = f"mkdir {_ROOT} && tar -xpf - -C {_ROOT} --exclude='./dev/*' --exclude='dev/*'; chmod 755 {_ROOT}"
BUILD_COMMAND = "cycleqd-merge sandbox build"
MIRRORS = {"debian": "http://deb.debian.org/debian", "ubuntu": "http://archive.ubuntu.com/ubuntu"}
RELEASES = {"debian": "bookworm", "ubuntu": "jammy"}
SYSTEM_PACKAGES = (
    "bc bsdextrautils bzip2 ca-certificates curl file g++ gawk gcc git iproute2 less libc6-dev locales lsof make nano "
    "net-tools openssl passwd procps psmisc python3 rsync sudo tree unzip vim-tiny wget xxd xz-utils zip"
)
"""Packages of AgentBench's image, and others that its samples call."""
FINISH_SCRIPT = """
set -e
mkdir -p /var/lib/box && cd /var/lib/box
apt-get -q update && apt-get -q download sudo net-tools tree zip unzip
for file in *.deb; do
    dpkg-deb --field "$file"
    echo "Filename: ./$file"
    echo "Size: $(stat -c %s "$file")"
    echo "SHA256: $(sha256sum "$file" | cut -d' ' -f1)"
    echo
done > Packages
rm -f /var/lib/dpkg/info/sudo.prerm # it refuses to remove sudo while root has no password
rm -rf /etc/apt/sources.list.d/* /var/lib/apt/lists/* /var/cache/apt/archives/*.deb
echo 'deb [trusted=yes] file:/var/lib/box ./' > /etc/apt/sources.list
echo 'APT::Get::Assume-Yes "true";' > /etc/apt/apt.conf.d/90box
apt-get -q update
"""
"""Stores a few packages in the system, so that problems that install or remove them can be solved without a network."""


def release_of(distribution: str, release: str | None) -> str:
    """The release to install: the given one, or the one of the distribution that these tasks were tested on."""
    return release or RELEASES[distribution]


def find_rootfs(name: str) -> Path:
    """The folder of a root file system that has been built.

    Raises:
        TaskError: no root file system of this name has been built.
    """
    folder = cache_folder("rootfs") / name / _ROOT
    if not (folder / "usr").is_dir():
        raise TaskError(f"sandbox: root file system {name!r} is not built: `{_build_command()}` (about 2 minutes)")
    return folder


def _build_command() -> str:
    """The command that builds a root file system for this user."""
    if os.geteuid() == 0:
        return f"sudo {BUILD_COMMAND}"
    return f"sudo {BUILD_COMMAND} --to root.tar && {BUILD_COMMAND} --from root.tar"


def build_rootfs(name: str, distribution: str, release: str | None, mirror: str | None, source: Path | None) -> Path:
    """Build a root file system, or replace the one of this name; returns its folder.

    source: a tar file to unpack, instead of installing a distribution, which requires root.

    Raises:
        TaskError: debootstrap is not installed, fails, or may not be run by this user.
        RecipeError: `source` is not a tar file of a root file system.
    """
    folder = cache_folder("rootfs") / name
    first_user()
    if source is not None:
        with source.open("rb") as archive:
            run_coroutine(_unpack(archive.fileno(), folder, str(source)))
        return folder
    with (
        _installed(distribution, release, mirror) as packing,
        subprocess.Popen(packing, stdout=subprocess.PIPE) as archive,
    ):
        assert archive.stdout is not None
        run_coroutine(_unpack(archive.stdout.fileno(), folder, "the installed system"))
    return folder


def write_tar(distribution: str, release: str | None, mirror: str | None, target: Path) -> None:
    """Install a distribution into a tar file, which a user who is not root can unpack. The installation requires root.

    Raises:
        TaskError: debootstrap is not installed, fails, or may not be run by this user; or the file cannot be written.
    """
    with _installed(distribution, release, mirror) as packing:
        _call([*packing, "--file", str(target.absolute())], f"{target}: tar")


@contextmanager
def _installed(distribution: str, release: str | None, mirror: str | None) -> Iterator[list[str]]:
    """A newly installed distribution; gives the command that packs it, without the files that its kernel provides."""
    if shutil.which("debootstrap") is None:
        raise TaskError(
            f"sandbox: debootstrap is not installed: `sudo apt-get install debootstrap`, then `{_build_command()}`"
        )
    if os.geteuid() != 0:
        raise TaskError(f"sandbox: debootstrap requires root: `{_build_command()}`")
    scratch = tempfile.mkdtemp(prefix=".building-", dir=cache_folder("rootfs"))
    try:
        _install(Path(scratch), release_of(distribution, release), mirror or MIRRORS[distribution])
        yield ["tar", "-C", scratch, "-c", "--exclude=./proc/*", "--exclude=./sys/*", "--exclude=./dev/*", "."]
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _install(scratch: Path, release: str, mirror: str) -> None:
    """Install a distribution into a folder; its packages must be signed with its archive's keys."""
    components = "main,universe" if "ubuntu" in mirror else "main"
    options = ["--variant=minbase", "--force-check-gpg", f"--components={components}"]
    include = f"--include={','.join(SYSTEM_PACKAGES.split())}"
    _call(["debootstrap", *options, include, release, str(scratch), mirror], f"debootstrap of {release} from {mirror}")
    _call(["chroot", str(scratch), "sh", "-c", FINISH_SCRIPT], f"apt in {release}")
    (scratch / "etc/hostname").write_text("box\n")
    (scratch / "etc/hosts").write_text("127.0.0.1 localhost box\n")


def _call(command: Sequence[str], what: str) -> None:
    variables = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "DEBIAN_FRONTEND": "noninteractive",
    }
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=variables, check=False)
    if done.returncode:
        lines = [line for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
        raise TaskError(f"sandbox: {what} failed: {lines[-1] if lines else 'no output'}")


async def _unpack(archive: int, folder: Path, label: str) -> None:
    """Unpack a tar file as the box's root, so that its files belong to the box's users; then replace `folder` by it."""
    new, old = folder.with_name(f".new-{folder.name}"), folder.with_name(f".old-{folder.name}")
    await _remove(new)
    new.mkdir()
    new.chmod(0o777)  # the box's root is a different user, and creates a folder of its own
    error = await _as_root(["sh", "-c", _UNPACK], new, archive)
    new.chmod(0o755)
    if not (new / _ROOT / "usr" / "bin").is_dir():
        await _remove(new)
        raise RecipeError(f"{label}: not a root file system: {error or 'no /usr/bin in it'}")
    await _remove(old)
    with contextlib.suppress(FileNotFoundError):
        folder.rename(old)
    new.rename(folder)
    await _remove(old)


async def _remove(folder: Path) -> None:
    if folder.exists():
        folder.chmod(0o777)
        await _as_root(["rm", "-rf", _ROOT], folder)
        folder.rmdir()


async def _as_root(command: Sequence[str], folder: Path, stdin: int = asyncio.subprocess.DEVNULL) -> str:
    """Run a command in a folder as the user that is root in boxes; returns the last line of its standard error."""
    async with user_namespace() as prefix:
        process = await asyncio.create_subprocess_exec(
            *prefix, *command, cwd=folder, stdin=stdin, stderr=asyncio.subprocess.PIPE
        )
        _, error = await process.communicate()
        return error.decode(errors="replace").strip().splitlines()[-1] if error.strip() else ""
