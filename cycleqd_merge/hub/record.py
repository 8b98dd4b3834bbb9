"""The last commit that a run pushed to each repository, so that it never overwrites other people's commits."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from cycleqd_merge.errors import RecipeError
from cycleqd_merge.files import write_atomically
from cycleqd_merge.strict_json import loads

_FILE = "hub.json"


class _Entry(BaseModel):
    model_config = ConfigDict(strict=True)

    commit: str | None = None
    mark: str | None = None
    pull_request: int | None = None


_ENTRIES = TypeAdapter(dict[str, _Entry])


class PushRecord:
    """One repository's entry in `hub.json` of the run directory.

    A commit is announced before it is sent, and confirmed afterwards. If the response was lost, the commit is
    recognised by the mark in its message.
    """

    def __init__(self, folder: Path, repository: str) -> None:
        self._path, self._repository = folder / _FILE, repository

    @property
    def commit(self) -> str | None:
        """The last commit on `main` that this run made or accepted."""
        return self._all().get(self._repository, {}).get("commit")

    @property
    def mark(self) -> str | None:
        """The mark of a commit that was sent and not confirmed."""
        return self._all().get(self._repository, {}).get("mark")

    @property
    def pull_request(self) -> int | None:
        """The number of a pull request that collects several commits, if it was not confirmed as merged."""
        return self._all().get(self._repository, {}).get("pull_request")

    def announce(self, parent: str | None) -> str:
        """Record that a commit on `parent` is about to be sent; returns the mark to include in its message."""
        mark = f"push {secrets.token_hex(8)}"
        self._write({"commit": parent, "mark": mark})
        return mark

    def propose(self, pull_request: int) -> None:
        """Record that the announced commit is collected in a pull request first."""
        self._write({**self._all()[self._repository], "pull_request": pull_request})

    def confirm(self, commit: str | None) -> None:
        """Record that `main` is at `commit`, with this run's files."""
        self._write({"commit": commit})

    def _all(self) -> dict[str, dict[str, Any]]:
        """The file's entries.

        Raises:
            RecipeError: it is damaged.
        """
        if not self._path.is_file():
            return {}
        try:
            entries: dict[str, dict[str, Any]] = loads(self._path.read_bytes())
            _ENTRIES.validate_python(entries)
            return entries
        except ValueError as error:
            reason = "not a record of pushes" if isinstance(error, ValidationError) else str(error)
            raise RecipeError(
                f"{self._path}: damaged: {reason}; restore the file from a backup, or remove it and name the "
                "repository's last commit with --onto"
            ) from None

    def _write(self, entry: dict[str, Any]) -> None:
        write_atomically(self._path, json.dumps({**self._all(), self._repository: entry}, indent=1) + "\n")
