"""Rows in AgentBench's database format, and a second implementation of its digest of a table."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cycleqd_merge.tasks.database.task import DbbenchTask
from tests.tasks.scripted import defined, write_rows

NAME = "Jazz Albums"
COLUMNS = ("Title", "No.", "Artist's `name`")
CELLS = (("Kind of Blue", "1", "Miles Davis"), ("Giant Steps", "2", "John Coltrane"), ("Idle Moments", "2", "O'Grant"))

INSERT = "INSERT INTO `Jazz Albums` VALUES ('Karma', '4', 'Pharoah Sanders')"
UPDATE = "UPDATE `Jazz Albums` SET Title = 'So What' WHERE `No.` = '1'"


def digest(rows: Sequence[Sequence[str]]) -> str:
    """The result of AgentBench's digest query for a table of these rows."""
    hashes = sorted(hashlib.md5(",".join(row).encode()).hexdigest()[:5] for row in rows)
    return f"[('{hashlib.md5(','.join(hashes).encode()).hexdigest()}',)]"


def row(kind: str, label: Sequence[str], left: Sequence[Sequence[str]] = ()) -> dict[str, Any]:
    """A row of the data. left: the table's cells after a write."""
    columns = [{"name": name, "type": "TEXT"} for name in COLUMNS]
    return {
        "description": f"What of {', '.join(label)}?",
        "add_description": f"The name of this table is {NAME}.",
        "label": list(label),
        "type": [kind],
        "table": {"table_name": NAME, "table_info": {"columns": columns, "rows": [list(cells) for cells in CELLS]}},
        **({"answer_md5": digest(left)} if left else {}),
    }


ROWS = (
    row("counting", ["2"]),
    row("other", ["John Coltrane", "O'Grant"]),
    row("INSERT", [INSERT], [*CELLS, ("Karma", "4", "Pharoah Sanders")]),
    row("UPDATE", [UPDATE], [("So What", "1", "Miles Davis"), *CELLS[1:]]),
)


def open_dbbench(folder: Path, *rows: dict[str, Any], **keys: Any) -> DbbenchTask:
    """A task over `rows`, the same for both splits."""
    write_rows(folder / "rows.jsonl", *rows)
    stated = {
        "kind": "dbbench",
        "data": {"search": {"path": "rows.jsonl"}, "heldout": {"path": "rows.jsonl"}},
        "messages": [{"role": "user", "content": "Use SQL.\n{{ description }}\n{{ add_description }}"}],
        **keys,
    }
    return DbbenchTask(defined(folder, stated))
