"""Imported by a process that others are forked from: they then have what strategies import or compile at first use."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.run.synthetic import run, synthetic_recipe

STRATEGIES = (
    {"kind": "cma-me", "population": 4},
    {"kind": "cma-es", "population": 4},
    {"kind": "nsga2", "population": 4},
    {"kind": "bayesian", "bred": 0.2},
    {"kind": "mergekit"},
)

for strategy in STRATEGIES:
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), synthetic_recipe(40, strategy=strategy))
