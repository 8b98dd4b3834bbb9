"""Files and folders under their final name: complete or absent, whatever interrupts their writing."""

from __future__ import annotations

import errno
import os
import signal
import threading
from pathlib import Path

import pytest

from cycleqd_merge.errors import UserError
from cycleqd_merge.files import new_file, new_folder, scratch_folder, write_atomically


class Interrupted(BaseException):
    """Not an `Exception`, as a signal's."""


@pytest.fixture
def umask() -> int:
    """The file mode mask of this process."""
    present = os.umask(0)
    os.umask(present)
    return present


@pytest.mark.parametrize(("data", "expected"), [("grün\n", "grün\n".encode()), (b"\x00\xff", b"\x00\xff")])
@pytest.mark.parametrize("before", [None, b"something longer than the new content"])
def test_small_files_are_written_whole(
    tmp_path: Path, umask: int, data: bytes | str, expected: bytes, before: bytes | None
) -> None:
    path = tmp_path / "record.json"
    if before is not None:
        path.write_bytes(before)
    write_atomically(path, data)
    assert path.read_bytes() == expected
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, OSError, Interrupted])
@pytest.mark.parametrize("before", [None, b"old"])
def test_an_interrupted_file_leaves_what_was_there(
    tmp_path: Path, error: type[BaseException], before: bytes | None
) -> None:
    path = tmp_path / "tensors"
    if before is not None:
        path.write_bytes(before)

    def interrupted() -> None:
        with new_file(path) as unfinished:
            unfinished.write_bytes(b"half")
            assert (path.read_bytes() if path.exists() else None) == before
            raise error

    with pytest.raises(error):
        interrupted()
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == ({"tensors": before} if before else {})


def test_a_block_that_writes_no_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), new_file(tmp_path / "nothing"):
        pass
    assert not list(tmp_path.iterdir())


def test_the_longest_name_allowed_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 255)
    write_atomically(path, "x")
    assert path.read_text() == "x"


def test_readers_never_see_a_part(tmp_path: Path) -> None:
    path, texts = tmp_path / "shared", [letter * 100_000 for letter in "abcd"]
    write_atomically(path, texts[0])
    writers = [
        threading.Thread(target=lambda text=text: [write_atomically(path, text) for _ in range(20)]) for text in texts
    ]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert path.read_text() in texts
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_complete_and_readable(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "model"
    with new_folder(out) as unfinished:
        (unfinished / "weights").write_text("x")
        assert not out.exists()
        assert unfinished.stat().st_dev == out.parent.stat().st_dev
        assert out.parent in unfinished.parents
    assert (out / "weights").read_text() == "x"
    assert out.stat().st_mode & 0o777 == 0o755
    assert list(out.parent.iterdir()) == [out]


def test_an_empty_folder_is_replaced_and_a_full_one_is_not(tmp_path: Path) -> None:
    out = tmp_path / "model"
    out.mkdir()
    with new_folder(out) as unfinished:
        (unfinished / "first").touch()
    with pytest.raises(OSError, match="not empty"), new_folder(out) as unfinished:
        (unfinished / "second").touch()
    assert [path.name for path in out.iterdir()] == ["first"]
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("error", [ValueError, Interrupted])
def test_an_interrupted_folder_is_removed(tmp_path: Path, error: type[BaseException]) -> None:
    def interrupted() -> None:
        with new_folder(tmp_path / "model") as unfinished:
            (unfinished / "deep").mkdir()
            (unfinished / "deep" / "weights").touch()
            raise error

    with pytest.raises(error):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "model"
    with pytest.raises(UserError, match=rf"^{out}: cannot be written: ") as raised, scratch_folder(out):
        pass
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_process_left_is_removed_by_the_next_one(tmp_path: Path, kind: str) -> None:
    out, others = tmp_path / "a[b]", {"a[b].lock", ".ab.123", ".0123456789ab-0123456789ab.part"}
    for other in others:
        (tmp_path / other).mkdir()
    killed = os.fork()
    if killed == 0:
        with new_file(out) if kind == "file" else new_folder(out) as unfinished:
            (unfinished if kind == "file" else unfinished / "deep").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(killed, 0)
    (left,) = {path.name for path in tmp_path.iterdir()} - others
    assert not out.exists()
    start = left.partition("-")[0]
    (tmp_path / f"{start}-as made!.part").mkdir()  # by a process killed before it locked it
    with new_file(out) as held:
        write_atomically(out, "whole")
        assert held.parent.is_dir()  # of a living process
        held.write_text("last")
    assert {path.name for path in tmp_path.iterdir()} == {out.name, *others}
    assert out.read_text() == "last"


def test_leftovers_stay_where_the_file_system_has_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refused)
    out = tmp_path / "model"
    with new_folder(out) as other:
        (other / "weights").write_text("x")
        with scratch_folder(out) as unfinished:
            assert unfinished.is_dir()
        assert (other / "weights").read_text() == "x"
    assert (out / "weights").read_text() == "x"
