"""Strategies by name need the recipe's configuration and nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"torch", "transformers", "scipy", "moocore", "matplotlib", "ribs", "sklearn"}


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("comparison.named_strategies", HEAVY | {"numpy"}),
        ("comparison.page_section", {"matplotlib", "moocore"}),
    ],
)
def test_heavy_libraries_are_imported_late(module: str, heavy: set[str]) -> None:
    code = f"import sys, cycleqd_merge.{module}; print(*sorted({heavy!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
