"""Choosing a provider: if no sandbox works, nothing runs, and the error names the command that installs one."""

from __future__ import annotations

import asyncio
import io
import os
import platform
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest

from cycleqd_merge.errors import InfrastructureError, RecipeError, TaskError
from cycleqd_merge.sandbox import rootfs
from cycleqd_merge.sandbox.boxes import open_box, run_once
from cycleqd_merge.sandbox.bubblewrap import Bubblewrap
from cycleqd_merge.sandbox.docker import python_dockerfile, run_line
from cycleqd_merge.sandbox.interpreter import PACKAGES
from cycleqd_merge.sandbox.protocol import MIB, Limits, RootFs
from cycleqd_merge.sandbox.providers import sandbox_for
from cycleqd_merge.sandbox.rootfs import build_rootfs, write_tar


@pytest.fixture
def no_programs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder as the search path of programs, which all users can read."""
    sandbox_for.cache_clear()
    with tempfile.TemporaryDirectory() as name:
        empty = Path(name)
        empty.chmod(0o755)
        monkeypatch.setenv("PATH", name)
        yield empty
    sandbox_for.cache_clear()


def write_failing(folder: Path, name: str, says: str) -> None:
    """A program that prints an error and fails."""
    program = folder / name
    program.write_text(f"#!/bin/sh\necho '{says}' >&2\nexit 1\n")
    program.chmod(0o755)


def test_a_host_without_a_provider_names_the_package_to_install(no_programs: Path) -> None:
    with pytest.raises(TaskError, match="sandbox: bwrap is not installed: `sudo apt-get install bubblewrap`"):
        sandbox_for(RootFs())


def test_a_host_that_forbids_bubblewrap_gives_its_reason(no_programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{no_programs}:/usr/bin:/bin")
    write_failing(no_programs, "bwrap", "No permissions to create new namespace")
    with pytest.raises(TaskError, match="does not work here: No permissions to create new namespace; "):
        sandbox_for(RootFs())


@pytest.mark.needs("bubblewrap")
def test_a_missing_root_file_system_names_the_command_that_builds_it() -> None:
    with pytest.raises(TaskError, match="root file system 'other' is not built: `sudo cycleqd-merge sandbox build"):
        Bubblewrap().probe(RootFs("other"))


def test_a_provider_that_works_is_described(own_root: RootFs) -> None:
    versions = f"Python {platform.python_version()} with numpy {numpy.__version__}"
    assert sandbox_for(RootFs()).python == versions
    assert sandbox_for(RootFs()).description.startswith(f"bubblewrap, {versions}, limits ")
    assert sandbox_for(own_root).description.startswith("bubblewrap, root default, limits ")


def test_a_sandbox_that_stops_working_is_an_infrastructure_error(no_programs: Path, own_root: RootFs) -> None:
    with pytest.raises(InfrastructureError, match="sandbox: cannot start a process"):
        asyncio.run(run_once(Bubblewrap(), ["echo"]))

    async def opened() -> None:
        async with open_box(Bubblewrap(), own_root, Limits()):
            pass

    with pytest.raises(InfrastructureError):
        asyncio.run(opened())


def test_a_tar_file_is_unpacked_as_a_root_file_system(tmp_path: Path, own_root: RootFs) -> None:
    path = tmp_path / "root.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("usr", "usr/bin"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(folder)
        file = tarfile.TarInfo("usr/bin/tool")
        file.size = 3
        archive.addfile(file, io.BytesIO(b"abc"))
    folder = build_rootfs(f"test-{os.getpid()}", "debian", None, None, path)
    assert (folder / "root/usr/bin/tool").read_bytes() == b"abc"
    assert (folder / "root/usr/bin/tool").stat().st_uid >= 100000
    broken = tmp_path / "broken.tar"
    broken.write_bytes(b"no tar file at all")
    with pytest.raises(RecipeError, match="not a root file system"):
        build_rootfs(f"test-{os.getpid()}", "debian", None, None, broken)
    assert (folder / "root/usr/bin/tool").read_bytes() == b"abc"


def test_a_user_who_is_not_root_unpacks_what_root_packed(
    tmp_path: Path, own_root: RootFs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def installed(scratch: Path, release: str, mirror: str) -> None:
        for name in ("usr/bin/tool", "proc/1"):
            (scratch / name).parent.mkdir(parents=True)
            (scratch / name).write_text(release)

    monkeypatch.setattr(rootfs, "_install", installed)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 0)
        write_tar("debian", None, None, tmp_path / "root.tar")
    folder = build_rootfs(f"test-{os.getpid()}", "debian", None, None, tmp_path / "root.tar")
    assert (folder / "root/usr/bin/tool").read_text() == "bookworm"
    assert list((folder / "root/proc").iterdir()) == []
    assert not list(folder.parent.glob(".building-*"))


def test_docker_gets_the_same_limits_and_isolation() -> None:
    limits = Limits(memory=64 * MIB, disk=8 * MIB, processes=9, cpus=2)
    line = run_line("box-1", ["echo", "hi"], RootFs(), limits)
    assert line[:2] == ["docker", "run"]
    release = ".".join(platform.python_version_tuple()[:2])
    image = f"cycleqd-python:{release}-numpy{numpy.__version__}"
    assert line[-3:] == [image, "echo", "hi"]
    assert f"--env=PYTHONPATH={PACKAGES}" in line
    assert f"FROM python:{release}-slim\nRUN pip install" in python_dockerfile()
    assert f"--target {PACKAGES} numpy=={numpy.__version__}\n" in python_dockerfile()
    for option in ("--network=none", "--cap-drop=ALL", "--read-only", "--user=65534:65534", "--pids-limit=9"):
        assert option in line
    assert f"--memory={64 * MIB}" in line
    own = run_line("box-1", ["sh"], RootFs("default"), limits)
    assert own[-2:] == ["cycleqd-root:default", "sh"]
    assert "--network=none" in own
    assert not any(
        "SYS_ADMIN" in option or "privileged" in option
        for option in own
        if option != "--security-opt=no-new-privileges"
    )
