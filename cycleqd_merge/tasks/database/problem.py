"""AgentBench's database samples, read from their rows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cycleqd_merge.config.validation_errors import short_repr
from cycleqd_merge.errors import DataError
from cycleqd_merge.tasks.database.table import Table

_WRITES = ("INSERT", "UPDATE", "DELETE")
_DIGEST = re.compile(r"\[\((?:'[0-9a-f]{32}'|None),\)\]")


@dataclass(frozen=True, slots=True)
class DbProblem:
    """A question about a table, or a change to make to it.

    label: the correct answer or, for a change, a statement that makes it. digest: AgentBench's digest of the changed
    table; None for a question.
    """

    table: Table
    label: tuple[str, ...]
    digest: str | None

    @property
    def is_write(self) -> bool:
        """Whether the table is graded, not the answer."""
        return self.digest is not None


def read_db_problem(row: Mapping[str, Any]) -> DbProblem:
    """A problem from a row in AgentBench's format.

    Raises:
        DataError: the row lacks something that scoring requires, or MariaDB cannot store its table.
    """
    for key in ("label", "type", "table"):
        if row.get(key) is None:
            raise DataError(f"{key}: missing; expected a row in AgentBench's format")
    for key in ("description", "add_description"):
        if not isinstance(row.get(key, ""), str):
            raise DataError(f"{key}: expected a text; found {short_repr(row[key])}")
    label = row["label"]
    if not isinstance(label, list | tuple) or not label or not all(isinstance(value, str) for value in label):
        raise DataError(f'label: expected a list of texts, such as ["12"]; found {short_repr(label)}')
    return DbProblem(Table.of(row["table"]), tuple(label), _digest(row, _kind(row["type"])))


def _kind(stated: Any) -> str:
    """The first of the row's types, or its only one."""
    kind = stated[0] if isinstance(stated, list | tuple) and stated else stated
    if not isinstance(kind, str) or not kind.strip():
        raise DataError(
            f'type: expected a list of one text, such as ["UPDATE"] or ["other"]; found {short_repr(stated)}'
        )
    return kind.strip().upper()


def _digest(row: Mapping[str, Any], kind: str) -> str | None:
    digest = row.get("answer_md5")
    if kind not in _WRITES:
        if digest:
            raise DataError(f"type: a row with `answer_md5` has the type {', '.join(_WRITES)}; found {row['type']!r}")
        return None
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise DataError(
            "answer_md5: expected AgentBench's digest of the changed table, such as "
            f"\"[('0123456789abcdef0123456789abcdef',)]\"; found {short_repr(digest)}"
        )
    return digest
