"""The journal: one JSON object per line, appended and fsynced before it counts. A run's only state on disk."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from cycleqd_merge.errors import InfrastructureError, RecipeError
from cycleqd_merge.files import sync_folder, write_failure, writing

JOURNAL_FILE = "journal.jsonl"
FORMAT = 1
SAMPLING_SEMANTICS = "sampling_semantics"
"""Key in a run's recorded search settings: the version of `sampling: published`; without it, that is `binned`."""
Event = dict[str, Any]


def read_events(folder: Path) -> list[Event]:
    """All events of a run's journal, without a torn last line.

    Raises:
        RecipeError: there is no journal, it has a different format, or a line before the last cannot be read.
    """
    events, _ = _read(folder / JOURNAL_FILE)
    return events


def _read(path: Path) -> tuple[list[Event], int]:
    """Events, and the number of bytes that they take up in the file."""
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise RecipeError(f"{path.parent}: not a run directory (no {JOURNAL_FILE})") from None
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from None
    lines = data.splitlines(keepends=True)
    events: list[Event] = []
    size = 0
    for number, line in enumerate(lines, start=1):
        try:
            event = json.loads(line)
            if not line.endswith(b"\n") or not isinstance(event, dict) or "event" not in event:
                raise ValueError("not a whole event")
        except ValueError:
            if number == len(lines):  # cut off while it was being written, so it never counted
                break
            raise RecipeError(
                f"{path}:{number}: damaged: this line is not an event; restore the file from a backup"
            ) from None
        events.append(event)
        size += len(line)
    if events and events[0].get("format") != FORMAT:
        raise RecipeError(f"{path}:1: journal format {events[0].get('format')!r}; this version reads format {FORMAT}")
    return with_renamed_sampling(events), size


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
            self.events, size = _read(path)
        except RecipeError:
            self.close()
            raise
        self._file.truncate(size)
        with writing(path):
            sync_folder(folder)

    def append(self, event: Event) -> None:
        """Record an event; it is on disk when this returns.

        Raises:
            InfrastructureError: the disk is full or the file cannot be written; nothing counts as recorded.
        """
        self._require_in_place()
        try:
            self._file.write(json.dumps(event, separators=(",", ":")).encode() + b"\n")
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
        yield journal
    finally:
        journal.close()


def of_kind(events: Iterable[Event], kind: str) -> list[Event]:
    """The events of one kind, in order."""
    return [event for event in events if event["event"] == kind]


def failed(result: Event) -> bool:
    """Whether a `result` records a failed evaluation; one that was rejected by racing has no scores either."""
    return result["scores"] is None and not result.get("censored")
