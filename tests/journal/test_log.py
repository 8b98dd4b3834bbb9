"""The journal on disk: what survives, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from cycleqd_merge.errors import UserError
from cycleqd_merge.journal.log import JOURNAL_FILE, Event, Journal, of_kind, read_events

EVENTS: list[Event] = [
    {"event": "start", "format": 1, "base": "ä\u2028 \r\n"},
    {"event": "session", "recipe": {}},
    {"event": "result", "number": 0, "scores": [0.1, 1 / 3, 1e-300]},
    {"event": "result", "number": 1, "scores": None, "error": "line\nbreak"},
]


def write(folder: Path, events: list[Event] = EVENTS) -> Path:
    """A closed journal of these events; returns its file."""
    with closing(Journal(folder)) as journal:
        for event in events:
            journal.append(event)
    return folder / JOURNAL_FILE


def test_events_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = write(tmp_path / "new" / "run")
    assert read_events(path.parent) == EVENTS
    assert len(path.read_text().splitlines()) == len(EVENTS)
    with closing(Journal(path.parent)) as journal:
        assert journal.events == EVENTS


def test_an_event_is_in_the_file_once_it_was_appended(tmp_path: Path) -> None:
    with closing(Journal(tmp_path)) as journal:
        for done, event in enumerate(EVENTS, start=1):
            journal.append(event)
            assert read_events(tmp_path) == EVENTS[:done]


def test_a_last_line_torn_anywhere_is_dropped_and_the_run_goes_on(tmp_path: Path) -> None:
    path = write(tmp_path)
    whole = path.read_bytes()
    start = whole.rindex(b"\n", 0, -1) + 1
    for cut in range(start, len(whole)):
        path.write_bytes(whole[:cut])
        assert read_events(tmp_path) == EVENTS[:-1]
        with closing(Journal(tmp_path)) as journal:
            assert journal.events == EVENTS[:-1]
            journal.append(EVENTS[-1])
        assert path.read_bytes() == whole


def test_looking_at_a_torn_journal_leaves_it_alone(tmp_path: Path) -> None:
    path = write(tmp_path)
    torn = path.read_bytes()[:-7]
    path.write_bytes(torn)
    read_events(tmp_path)
    assert path.read_bytes() == torn


@pytest.mark.parametrize("line", [1, 2, 3])
@pytest.mark.parametrize(
    "damage", [b"\n", b"{\n", b"[]\n", b'{"number":1}\n', b"\xff\xfe\n", b"\0" * 40 + b"\n", b'{"event":"result",\n']
)
def test_damage_before_the_last_line_is_refused_and_named(tmp_path: Path, line: int, damage: bytes) -> None:
    path = write(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line - 1] = damage
    path.write_bytes(b"".join(lines))
    for open_it in (read_events, Journal, Journal):  # twice: a refusal holds no lock
        with pytest.raises(UserError) as raised:
            open_it(tmp_path)
        assert str(raised.value).startswith(f"{path}:{line}: damaged")
    assert path.read_bytes() == b"".join(lines)


def test_two_lines_run_together_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"}\n", b"}", 1))
    with pytest.raises(UserError, match=f"{JOURNAL_FILE}:1: damaged"):
        read_events(tmp_path)


@pytest.mark.parametrize("stated", [2, None, "1"])
def test_a_journal_of_another_format_is_refused(tmp_path: Path, stated: object) -> None:
    (tmp_path / JOURNAL_FILE).write_text(json.dumps({"event": "start", "format": stated}) + "\n")
    for open_it in (read_events, Journal):
        with pytest.raises(UserError, match=rf"{JOURNAL_FILE}:1: journal format .* reads format 1"):
            open_it(tmp_path)


def test_a_folder_without_a_journal_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run directory"):
        read_events(tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: not a run directory"):
        read_events(tmp_path / "file")


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match=r"run: is a file; choose another directory$"):
        Journal(tmp_path / "run")


def test_a_run_belongs_to_one_process_at_a_time(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from cycleqd_merge.journal.log import Journal;"
        "journal = Journal(Path(sys.argv[1])); print('held', flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another process is using this run"):
            Journal(tmp_path)
        holder.kill()
    Journal(tmp_path).close()  # a killed process holds nothing


def test_a_closed_journal_can_be_opened_again(tmp_path: Path) -> None:
    with closing(Journal(tmp_path)), pytest.raises(UserError, match="another process"):
        Journal(tmp_path)
    Journal(tmp_path).close()


def test_events_are_found_by_kind() -> None:
    assert of_kind(EVENTS, "result") == EVENTS[2:]
    assert of_kind(EVENTS, "bounds") == []
