"""The database of one sample: the interface, and how its results are written for a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from cycleqd_merge.errors import InfrastructureError

RESULT_LIMIT = 800
"""Characters of a result that a model is shown."""


class ServerCrashed(InfrastructureError):
    """A server that only samples use has ended: a statement of one of them made it crash."""


class SampleDatabase(Protocol):
    """A database that contains one sample's table. All methods block."""

    def execute(self, sql: str) -> str:
        """Run one statement of a model; returns the result for the model: rows as Python prints them, or the error.

        Raises:
            InfrastructureError: the server failed.
        """
        ...

    def digest(self) -> str | None:
        """AgentBench's MD5 of the table; None if the table is gone or cannot be read.

        Raises:
            InfrastructureError: the server failed.
        """
        ...

    def close(self) -> None:
        """Remove the database.

        Raises:
            InfrastructureError: the server failed.
        """
        ...


def row_texts(rows: Iterable[Sequence[Any]]) -> list[str]:
    """A list of rows as Python prints it, in parts. No more rows are read than a model is shown."""
    parts, length = ["["], 0
    for row in rows:
        parts += [", "] * (length > 0) + [repr(tuple(row))]
        length += len(parts[-1])
        if length > RESULT_LIMIT:
            break
    return [*parts, "]"]


def truncate(parts: Iterable[str]) -> str:
    """A result as a model is shown it: cut off after `RESULT_LIMIT` characters."""
    text = "".join(parts)
    return text if len(text) <= RESULT_LIMIT else text[:RESULT_LIMIT] + "[TRUNCATED]"
