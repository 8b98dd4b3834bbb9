"""Imported by a process that others are forked from: all of them have what `ribs` compiles at its first use."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.run.synthetic import run, synthetic_recipe

with tempfile.TemporaryDirectory() as folder:
    run(Path(folder), synthetic_recipe(40, strategy={"kind": "cma-me", "population": 4}))
