"""Recipes as text: one that names its tasks, one that states a task inline, and what loading them says."""

from __future__ import annotations

from pathlib import Path

import pytest

from cycleqd_merge.config.loading import load_recipe
from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.errors import UserError

NAMED = """\
base: org/base
experts:
  code: org/code
  sql: org/sql
tasks:
  - {task: smollm2-sql, name: sql, expert: sql}
  - task: smollm2-bash
    name: code
    expert: code
output: runs/x
"""

INLINE = """\
base: org/base
experts:
  code: org/code
  sql: org/sql
tasks:
  - {task: smollm2-sql, name: sql}
  - name: code
    task:
      kind: generate
      data:
        rows: {path: a.jsonl}
      prompt: "{{ q }}"
      scorer:
        kind: exact
        lowercase: true
output: runs/x
"""


def load(folder: Path, text: str, *settings: str) -> Recipe:
    """The recipe that `text` states, as the file recipe.yaml in `folder`."""
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return load_recipe(path, settings)


def faults(folder: Path, text: str, *settings: str) -> list[str]:
    """What is wrong with it, a line each, without the folder."""
    with pytest.raises(UserError) as raised:
        load(folder, text, *settings)
    return str(raised.value).replace(f"{folder}/", "").splitlines()


def fault(folder: Path, text: str, *settings: str) -> str:
    """The only thing that is wrong with it."""
    (line,) = faults(folder, text, *settings)
    return line


def replaced(text: str, old: str, new: str) -> str:
    """`text` with its only `old` replaced."""
    assert text.count(old) == 1
    return text.replace(old, new)
