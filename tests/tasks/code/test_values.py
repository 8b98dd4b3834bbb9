"""Which values are equal: a table of cases against EvalPlus' verdicts, through real boxes.

`make_value_verdicts.py` stored the verdicts.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from cycleqd_merge.sandbox.protocol import MIB, Limits, RootFs
from cycleqd_merge.sandbox.providers import sandbox_for
from cycleqd_merge.tasks.code.execution import returned_values
from cycleqd_merge.tasks.code.grading import all_correct
from cycleqd_merge.tasks.code.values import pack
from tests.tasks.code.value_cases import CASES, DIFFERENT, INPUTS, Side, program

pytestmark = pytest.mark.needs("bubblewrap")

VERDICTS = json.loads((Path(__file__).parents[2] / "data" / "evalplus" / "values.json").read_text())


def equal(reference: Side, answer: Side, atol: float) -> bool:
    """Whether an answer's value is correct, if a reference's value is expected."""
    provider = sandbox_for(RootFs()).provider
    inputs = [pack(arguments)[1] for arguments in INPUTS]
    limits = Limits(memory=4096 * MIB, seconds=20)

    async def values(side: Side) -> list[str] | None:
        return await returned_values(provider, program(side), "f", inputs, limits)

    async def both() -> tuple[list[str] | None, list[str] | None]:
        return await values(reference), await values(answer)

    wanted, found = asyncio.run(both())
    return wanted is not None and found is not None and all_correct("Mbpp/1", "f", inputs, found, wanted, atol)


@pytest.mark.parametrize(("name", "reference", "answer", "atol"), CASES, ids=[case[0] for case in CASES])
def test_values_are_equal_as_in_evalplus(name: str, reference: Side, answer: Side, atol: float) -> None:
    assert equal(reference, answer, atol) is VERDICTS[name]


@pytest.mark.parametrize(
    ("name", "reference", "answer", "atol", "reason"), DIFFERENT, ids=[case[0] for case in DIFFERENT]
)
def test_values_are_equal_otherwise_for_a_reason(
    name: str, reference: Side, answer: Side, atol: float, reason: str
) -> None:
    assert equal(reference, answer, atol) is not VERDICTS[name], reason
