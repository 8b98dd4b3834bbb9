"""The form of the table of attacks: every module of this folder lists its own in `ATTACKS`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest
from _pytest.mark.structures import ParameterSet


@dataclass(frozen=True)
class Attack:
    """An attack, or a fault of the machine.

    kind: what it aims at, such as "foreign recipe". attack: what somebody does, unique in its module. outcome: what
    must happen. given: the module's own input for its test.
    """

    kind: str
    attack: str
    outcome: str
    given: Any = None


def cases(attacks: Iterable[Attack]) -> list[ParameterSet]:
    """The attacks as parameters of a test, named by what they do."""
    return [pytest.param(each, id=each.attack) for each in attacks]
