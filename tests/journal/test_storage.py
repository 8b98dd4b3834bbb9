"""Disks that fill up or turn read-only: a clear error, and nothing lost. On a small disk made for the test."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cycleqd_merge.errors import InfrastructureError, UserError
from cycleqd_merge.journal.log import JOURNAL_FILE, Event, Journal, read_events
from cycleqd_merge.run.state import open_run
from tests.run.synthetic import history, run, synthetic_recipe

AS_ROOT = ["sudo", "-n"] if os.geteuid() != 0 and shutil.which("sudo") else []
MOUNT = [*AS_ROOT, "mount"]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 kB; needs the right to mount, as root or by sudo without a password."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run([*MOUNT, "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"mount: not permitted here: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run([*AS_ROOT, "umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, left: int) -> Path:
    """A file that leaves `left` pages of the disk free."""
    filler = disk / "filler"
    pages = 0
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
                pages += 1
        except OSError:
            file.truncate((pages - left) * 4096)
    return filler


def append_many(journal: Journal, written: list[Event]) -> None:
    """Append events, and note each whose appending returned."""
    for number in range(1000):
        event = {"event": "result", "number": number, "format": 1, "text": "x" * 97}
        journal.append(event)
        written.append(event)


def test_a_full_disk_is_named_and_loses_no_event(disk: Path) -> None:
    filler = fill(disk, left=3)
    written: list[Event] = []
    with closing(Journal(disk / "run")) as journal:
        with pytest.raises(InfrastructureError, match=rf"{JOURNAL_FILE}: cannot be written: No space left on device"):
            append_many(journal, written)
        assert journal.events == written
    assert len(written) > 20
    assert read_events(disk / "run") == written
    filler.unlink()
    with closing(Journal(disk / "run")) as journal:
        assert journal.events == written
        journal.append({"event": "result", "number": len(written)})
    assert len(read_events(disk / "run")) == len(written) + 1


def test_a_run_that_filled_its_disk_goes_on_when_there_is_room(disk: Path, tmp_path: Path) -> None:
    filler = fill(disk, left=2)
    with pytest.raises(InfrastructureError, match="No space left on device"):
        run(disk / "run", synthetic_recipe(60), in_flight=2)
    told = open_run(disk / "run").schedule.received
    assert 3 < told < 63
    filler.unlink()
    run(disk / "run", synthetic_recipe(60), in_flight=2)
    run(tmp_path / "other", synthetic_recipe(60), in_flight=2)
    assert history(disk / "run") == history(tmp_path / "other")


def test_a_disk_without_any_room_is_named_before_a_run_begins(disk: Path) -> None:
    fill(disk, left=0)
    with pytest.raises((InfrastructureError, UserError), match=r"cannot be written: No space left on device"):
        run(disk / "run")


def test_a_read_only_disk_is_named_and_can_still_be_looked_at(disk: Path) -> None:
    run(disk / "run")
    before = (disk / "run" / JOURNAL_FILE).read_bytes()
    subprocess.run([*MOUNT, "-o", "remount,ro", str(disk)], check=True)
    for folder in (disk / "run", disk / "new"):
        with pytest.raises(UserError, match=rf"{folder}: cannot be written: Read-only file system"):
            Journal(folder)
    assert open_run(disk / "run").generation == 20
    assert (disk / "run" / JOURNAL_FILE).read_bytes() == before
