"""What a run pushed last, so that commits of others on `main` are noticed before anything is built upon them."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

from cycleqd_merge.files import write_atomically

FILE = "hub.json"


class PushRecord:
    """One repository's entry in `hub.json` of the run directory.

    A commit is announced before it is sent and confirmed after it: one whose answer was lost is known by its mark.
    """

    def __init__(self, folder: Path, repository: str) -> None:
        self._path, self._repository = folder / FILE, repository

    @property
    def commit(self) -> str | None:
        """The commit that this run left `main` at."""
        return self._all().get(self._repository, {}).get("commit")  # type: ignore[no-any-return]

    @property
    def mark(self) -> str | None:
        """The mark of a commit that was sent, if no answer came."""
        return self._all().get(self._repository, {}).get("mark")  # type: ignore[no-any-return]

    @property
    def pull_request(self) -> int | None:
        """The number of the pull request that gathers a push of several commits, if no answer came to its merging."""
        return self._all().get(self._repository, {}).get("pull_request")  # type: ignore[no-any-return]

    def announce(self, parent: str | None) -> str:
        """A commit on `parent` is about to be sent; returns the mark that its message shall hold."""
        mark = f"push {secrets.token_hex(8)}"
        self._write({"commit": parent, "mark": mark})
        return mark

    def propose(self, pull_request: int) -> None:
        """What was announced gathers in a pull request first."""
        self._write({**self._all()[self._repository], "pull_request": pull_request})

    def confirm(self, commit: str | None) -> None:
        """`main` stands at `commit`, and it is as this run wants it."""
        self._write({"commit": commit})

    def _all(self) -> dict[str, Any]:
        return dict(json.loads(self._path.read_text())) if self._path.is_file() else {}

    def _write(self, entry: dict[str, Any]) -> None:
        write_atomically(self._path, json.dumps({**self._all(), self._repository: entry}, indent=1) + "\n")
