"""The table of attacks is complete: every module has a part of it, and no attack is listed twice."""

from __future__ import annotations

import importlib
from pathlib import Path

from tests.security.attacks import Attack

WITHOUT_TABLE = {"test_table", "test_fuzz"}


def test_every_module_lists_its_attacks_once() -> None:
    modules = [path.stem for path in Path(__file__).parent.glob("test_*.py") if path.stem not in WITHOUT_TABLE]
    listed: list[Attack] = []
    for name in modules:
        attacks = importlib.import_module(f"tests.security.{name}").ATTACKS
        assert attacks, f"{name} lists no attacks"
        assert len({each.attack for each in attacks}) == len(attacks), f"{name} lists an attack twice"
        assert all(each.kind and each.outcome for each in attacks)
        listed += attacks
    assert len(listed) >= 120
