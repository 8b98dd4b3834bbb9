"""The journal: one JSON object per line, appended and fsynced before it counts. A run's only state on disk."""

from __future__ import annotations

import errno
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from cycleqd_merge.config.origin import is_download
from cycleqd_merge.errors import InfrastructureError, RecipeError, RunFailed
from cycleqd_merge.files import sync_folder, write_failure, writing
from cycleqd_merge.journal.foreign import marked, require_plain
from cycleqd_merge.journal.schema import problem, unknown_keys
from cycleqd_merge.redaction import redacted
from cycleqd_merge.strict_json import loads

JOURNAL_FILE = "journal.jsonl"
FORMAT = 1
SAMPLING_SEMANTICS = "sampling_semantics"
"""Key in a run's recorded search settings: the version of `sampling: published`; without it, that is `binned`."""
Event = dict[str, Any]


_KEY = "crc"
"""The last key of a line: the CRC-32 of all events up to this one, as they are written, without these keys.

So it also tells of lines that were lost, swapped or written twice, and of damage to older lines that have none.
"""
_SUM = re.compile(rb',"crc":"([0-9a-f]{8})"\}\Z')
_FORMATTED = re.compile(rb'"crc":\s+"[0-9a-f]{8}"')


def read_events(folder: Path) -> list[Event]:
    """All events of a run's journal, without a torn last line. Recipes that others published are marked as foreign.

    Raises:
        RecipeError: there is no journal, it has a different format, or a line is damaged.
    """
    return _read(folder / JOURNAL_FILE).events


def complete_events(folder: Path) -> list[Event]:
    """`read_events`, where every event must have the keys that this version reads.

    Raises:
        RecipeError: one lacks a key; see also `read_events`.
    """
    events = read_events(folder)
    require_complete(events, str(folder / JOURNAL_FILE))
    return events


def require_complete(events: Iterable[Event], where: str) -> None:
    """Check that every event has the keys that this version reads.

    Raises:
        RecipeError: one does not; `where` names the journal.
    """
    for number, event in enumerate(events, start=1):
        if (reason := problem(event, complete=True)) is not None:
            raise _damaged(f"{where}:{number}", reason)


def _damaged(place: str, reason: str) -> RecipeError:
    return RecipeError(f"{place}: damaged: {reason}; restore the file from a backup")


@dataclass(frozen=True)
class _Contents:
    """A journal's events, the bytes that they take up in the file, and the checksum after the last of them."""

    events: list[Event]
    size: int
    checksum: int


def _read(path: Path) -> _Contents:
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise RecipeError(f"{path.parent}: not a run directory (no {JOURNAL_FILE})") from None
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from None
    contents = _parsed(data, str(path))
    download = is_download(path)
    if download:
        require_plain(contents.events, str(path))
    return replace(contents, events=marked(contents.events, path.parent, download))


def parse_events(data: bytes, where: str) -> list[Event]:
    """The events in a journal's bytes, see `read_events`; `where` names it in errors."""
    return _parsed(data, where).events


def _parsed(data: bytes, where: str) -> _Contents:
    *lines, rest = data.split(b"\n")
    if lines and not rest and b"\0" in lines[-1]:  # a power failure can leave zeros where a write did not arrive
        rest = lines.pop()
    if not _is_torn(rest):
        raise _damaged(f"{where}:{len(lines) + 1}", "this line is not an event")
    events: list[Event] = []
    checksum, has_sums = 0, False
    for number, line in enumerate(lines, start=1):
        place = f"{where}:{number}"
        try:
            event, checksum, has_sum = _event_in(line, checksum)
        except ValueError as error:
            raise _damaged(place, str(error)) from None
        stated = event.get("format")
        if number == 1 and (stated != FORMAT or isinstance(stated, bool)):
            raise RecipeError(f"{place}: journal format {stated!r:.50}; this version reads format {FORMAT}")
        if (reason := problem(event, complete=False)) is not None:
            raise _damaged(place, reason)
        has_sums |= has_sum
        if has_sums and not has_sum and unknown_keys(event):  # no version without checksums wrote these
            raise _damaged(place, f"unknown key {min(unknown_keys(event))!r:.50}, and no checksum")
        events.append(event)
    return _Contents(with_renamed_sampling(events), sum(map(len, lines)) + len(lines), checksum)


def _is_torn(rest: bytes) -> bool:
    """Whether what follows the last newline is the beginning of a line that was never completed.

    Zeros are what some file systems leave of it after a power failure. It did not count yet.
    """
    try:
        text = rest.partition(b"\0")[0].decode(errors="replace")
        value, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return True
    return end == len(text) and isinstance(value, dict)  # another program may have made one list of all lines


def _event_in(line: bytes, before: int) -> tuple[Event, int, bool]:
    """The event in a line, without its checksum; that checksum, which continues the one before; whether it was stated.

    Versions before 0.2 stated none, and one in a line that another program has formatted is no longer valid. Editors
    and git may have added carriage returns or spaces at the end.

    Raises:
        ValueError: the line is damaged.
    """
    line = line.rstrip(b" \t\r")
    found = _SUM.search(line)
    body = line if found is None else line[: found.start()] + b"}"
    checksum = zlib.crc32(body, before)
    if found is not None and int(found[1], 16) != checksum:
        raise ValueError("its checksum does not match this line and the lines before it")
    event = loads(body)
    if not isinstance(event, dict) or "event" not in event:
        raise ValueError("this line is not an event")
    if _KEY in event and (found is not None or not _FORMATTED.search(line)):
        raise ValueError("its checksum is not one")
    event.pop(_KEY, None)
    return event, checksum, found is not None


def journal_bytes(events: Iterable[Event]) -> bytes:
    """A whole journal with these events, each with its checksum."""
    lines, checksum = [], 0
    for event in events:
        line, checksum = _line(_body(event), checksum)
        lines.append(line)
    return b"".join(lines)


def _body(event: Event) -> bytes:
    """An event as JSON; texts that are not valid Unicode, such as some file names, are replaced as far as necessary."""
    text = json.dumps(event, separators=(",", ":"), allow_nan=False)
    if "\\ud" in text:
        valid = json.dumps(event, ensure_ascii=False).encode(errors="replace")
        text = json.dumps(json.loads(valid), separators=(",", ":"))
    return text.encode()


def _line(body: bytes, before: int) -> tuple[bytes, int]:
    """A line with its checksum, and that checksum."""
    checksum = zlib.crc32(body, before)
    return b'%b,"%b":"%08x"}\n' % (body[:-1], _KEY.encode(), checksum), checksum


def with_renamed_sampling(events: list[Event]) -> list[Event]:
    """The events of a run in which version 0.1 called `published` what is `binned` now, with its name of today.

    Newer runs with `published` have `SAMPLING_SEMANTICS` in the recorded settings of their search.
    """
    settings = events[0].get("evolution") if events else None
    if not isinstance(settings, dict) or settings.get("sampling") != "published" or SAMPLING_SEMANTICS in settings:
        return events
    renamed = [{**events[0], "evolution": {**settings, "sampling": "binned"}}]
    for event in events[1:]:
        recipe: Any = event.get("recipe") if event["event"] == "session" else None
        stated: Any = recipe.get("evolution") if isinstance(recipe, dict) else None
        if isinstance(stated, dict) and stated.get("sampling") == "published":
            event = {**event, "recipe": {**recipe, "evolution": {**stated, "sampling": "binned"}}}
        renamed.append(event)
    return renamed


class Journal:
    """A run's journal opened for appending; one process at a time.

    Raises:
        RecipeError: the folder cannot be written, another process holds it, or the journal is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / JOURNAL_FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(folder / "lock")
            self._lock.acquire(timeout=0)
            self._file = path.open("ab")
        except Timeout:
            raise RecipeError(f"{folder}: another process is using this run; wait until it ends") from None
        except OSError as error:
            if folder.is_file():
                raise RecipeError(f"{folder}: is a file; choose another directory") from error
            if error.errno not in (None, errno.EROFS) and (reason := write_failure(error)) is not None:
                raise InfrastructureError(f"{error.filename or path}: cannot be written: {reason}") from error
            hint = "make it writable or choose another directory"
            raise RecipeError(f"{folder}: cannot be written: {error.strerror}; {hint}") from error
        try:
            contents = _read(path)
        except RecipeError:
            self.close()
            raise
        self.events, self._checksum = contents.events, contents.checksum
        self._file.truncate(contents.size)
        with writing(path):
            sync_folder(folder)

    def append(self, event: Event) -> None:
        """Record an event; it is on disk when this returns. An error is recorded without values of variables.

        Raises:
            InfrastructureError: the disk is full or the file cannot be written; nothing counts as recorded.
            RunFailed: the event holds values that JSON does not have, such as infinite numbers.
        """
        self._require_in_place()
        if isinstance(event.get("error"), str):
            event = {**event, "error": redacted(event["error"])}
        try:
            body = _body(event)
            loads(body)
        except (ValueError, TypeError) as error:
            raise RunFailed(f"{self.folder / JOURNAL_FILE}: an event cannot be recorded: {error}") from error
        line, self._checksum = _line(body, self._checksum)
        try:
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            reason = write_failure(error) or error.strerror
            raise InfrastructureError(f"{self.folder / JOURNAL_FILE}: cannot be written: {reason}") from error
        self.events.append(event)

    def _require_in_place(self) -> None:
        """Check that the open file is the run's journal still: events in a deleted file would be lost.

        Raises:
            InfrastructureError: it was deleted, moved or replaced.
        """
        path = self.folder / JOURNAL_FILE
        try:
            same = os.path.samestat(path.stat(), os.fstat(self._file.fileno()))
        except OSError:
            same = False
        if not same:
            raise InfrastructureError(
                f"{path}: was deleted, moved or replaced during the run; put it back, then resume the run"
            )

    def close(self) -> None:
        """Release the run for other processes."""
        try:
            self._file.close()
        except OSError:
            pass  # a full disk was reported by `append` already
        finally:
            self._lock.release()


@contextmanager
def opened_journal(folder: Path) -> Iterator[Journal]:
    """The journal of the run in `folder`, locked for this process.

    Raises:
        RecipeError: see `Journal`.
    """
    journal = Journal(folder)
    try:
        require_complete(journal.events, str(folder / JOURNAL_FILE))
        yield journal
    finally:
        journal.close()


def of_kind(events: Iterable[Event], kind: str) -> list[Event]:
    """The events of one kind, in order."""
    return [event for event in events if event["event"] == kind]


def failed(result: Event) -> bool:
    """Whether a `result` records a failed evaluation; one that was rejected by racing has no scores either."""
    return result["scores"] is None and not result.get("censored")
