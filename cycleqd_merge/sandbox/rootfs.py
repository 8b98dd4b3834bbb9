"""Root file systems for boxes: made once by debootstrap, or unpacked from a tar file such as `docker export` writes."""

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
from cycleqd_merge.errors import UserError
from cycleqd_merge.event_loop import run_coroutine
from cycleqd_merge.sandbox.identities import as_root_of_its_own, first_user

_ROOT = "root"  # within a folder of this user's: the folder that belongs to the box's root
_UNPACK = f"mkdir {_ROOT} && tar -xpf - -C {_ROOT} --exclude='./dev/*' --exclude='dev/*'; chmod 755 {_ROOT}"
BUILD = "cycleqd-merge sandbox build"
MIRRORS = {"debian": "http://deb.debian.org/debian", "ubuntu": "http://archive.ubuntu.com/ubuntu"}
RELEASES = {"debian": "bookworm", "ubuntu": "jammy"}
PACKAGES = (
    "bc bsdextrautils bzip2 ca-certificates curl file g++ gawk gcc git iproute2 less libc6-dev locales lsof make nano "
    "net-tools openssl passwd procps psmisc python3 rsync sudo tree unzip vim-tiny wget xxd xz-utils zip"
)
"""What AgentBench's image holds, and what its samples call besides."""
FINISH = """
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
rm -f /var/lib/dpkg/info/sudo.prerm # which keeps sudo where root has no password
rm -rf /etc/apt/sources.list.d/* /var/lib/apt/lists/* /var/cache/apt/archives/*.deb
echo 'deb [trusted=yes] file:/var/lib/box ./' > /etc/apt/sources.list
echo 'APT::Get::Assume-Yes "true";' > /etc/apt/apt.conf.d/90box
apt-get -q update
"""
"""A few packages beside the system, so that problems which install and remove them can be solved without a network."""


def release_of(distribution: str, release: str | None) -> str:
    """The release to install: the stated one, or the distribution's that these tasks were tried on."""
    return release or RELEASES[distribution]


def find_rootfs(name: str) -> Path:
    """The folder of a root file system that was built before.

    Raises:
        UserError: there is none of this name.
    """
    folder = cache_folder("rootfs") / name / _ROOT
    if not (folder / "usr").is_dir():
        raise UserError(f"no sandbox: root {name!r} is not built: `{_building()}` (about 2 minutes)")
    return folder


def _building() -> str:
    """The command that builds a root file system that serves this user."""
    return f"sudo {BUILD}" if os.geteuid() == 0 else f"sudo {BUILD} --to root.tar && {BUILD} --from root.tar"


def build_rootfs(name: str, distribution: str, release: str | None, mirror: str | None, source: Path | None) -> Path:
    """Build a root file system, or replace the one of this name; returns its folder.

    source: a tar file to unpack instead of a distribution to install, which needs root.

    Raises:
        UserError: debootstrap is missing or fails, this user may not run it, or the tar file is none.
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
    """Install a distribution into a tar file, for a user who is not root to unpack; the installation needs root.

    Raises:
        UserError: debootstrap is missing or fails, this user may not run it, or the tar file cannot be written.
    """
    with _installed(distribution, release, mirror) as packing:
        _call([*packing, "--file", str(target.absolute())], f"{target}: tar")


@contextmanager
def _installed(distribution: str, release: str | None, mirror: str | None) -> Iterator[list[str]]:
    """The command that packs a freshly installed distribution, without the files of its kernel."""
    if shutil.which("debootstrap") is None:
        raise UserError(f"debootstrap is missing: `sudo apt-get install debootstrap`, then `sudo {BUILD}`")
    if os.geteuid() != 0:
        raise UserError(f"debootstrap needs root: `{_building()}`")
    scratch = tempfile.mkdtemp(prefix=".building-", dir=cache_folder("rootfs"))
    try:
        _install(Path(scratch), release_of(distribution, release), mirror or MIRRORS[distribution])
        yield ["tar", "-C", scratch, "-c", "--exclude=./proc/*", "--exclude=./sys/*", "--exclude=./dev/*", "."]
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _install(scratch: Path, release: str, mirror: str) -> None:
    """Install a distribution into a folder; its archive's keys must vouch for it."""
    components = "main,universe" if "ubuntu" in mirror else "main"
    options = ["--variant=minbase", "--force-check-gpg", f"--components={components}"]
    include = f"--include={','.join(PACKAGES.split())}"
    _call(["debootstrap", *options, include, release, str(scratch), mirror], f"debootstrap of {release} from {mirror}")
    _call(["chroot", str(scratch), "sh", "-c", FINISH], f"apt in {release}")
    (scratch / "etc/hostname").write_text("box\n")
    (scratch / "etc/hosts").write_text("127.0.0.1 localhost box\n")


def _call(command: Sequence[str], what: str) -> None:
    variables = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "DEBIAN_FRONTEND": "noninteractive",
    }
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=variables, check=False)
    if done.returncode:
        said = [line for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
        raise UserError(f"{what} failed: {said[-1] if said else 'it says nothing'}")


async def _unpack(archive: int, folder: Path, label: str) -> None:
    """Unpack a tar file as the box's root, so that its files belong to the box's users; then put it in its place."""
    new, old = folder.with_name(f".new-{folder.name}"), folder.with_name(f".old-{folder.name}")
    await _remove(new)
    new.mkdir()
    new.chmod(0o777)  # the box's root is a stranger here, and makes a folder of its own
    said = await _as_root(["sh", "-c", _UNPACK], new, archive)
    new.chmod(0o755)
    if not (new / _ROOT / "usr" / "bin").is_dir():
        await _remove(new)
        raise UserError(f"{label}: no root file system: {said or 'it has no /usr/bin'}")
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
    """Run a command in a folder as root of a box, without a box; returns the last line it complains with."""
    async with as_root_of_its_own() as as_root:
        process = await asyncio.create_subprocess_exec(
            *as_root, *command, cwd=folder, stdin=stdin, stderr=asyncio.subprocess.PIPE
        )
        _, said = await process.communicate()
        return said.decode(errors="replace").strip().splitlines()[-1] if said.strip() else ""
