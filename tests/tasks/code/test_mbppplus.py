"""MBPP+: EvalPlus' verdicts on correct, empty and mutated answers, which `make_evalplus_verdicts.py` stored.

Every sixth problem is compared; before a release, all of them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cycleqd_merge.tasks.code.task import CodeTask
from tests.components import DATA
from tests.tasks.code.mutants import answer_of, digest, stub
from tests.tasks.code.test_task import open_code
from tests.tasks.scripted import Scripted

pytestmark = [pytest.mark.needs("bubblewrap"), pytest.mark.needs("published data")]

VERDICTS = json.loads((Path(__file__).parents[2] / "data" / "evalplus" / "mbppplus.json").read_text())
"""0 wrong, 1 correct on the base inputs, 2 on the additional inputs too."""
SLOW = {f"Mbpp/{number}" for number in (84, 255, 271, 300, 389, 392, 583, 589, 592, 603)}
"""Problems whose reference solution takes seconds."""

Case = tuple[str, str, int]
"""A task id, an answer and EvalPlus' verdict."""


def problems() -> dict[str, dict[str, Any]]:
    rows = map(json.loads, (DATA / "MbppPlus-2023-11-16.jsonl").read_text().splitlines())
    return {row["task_id"]: row for row in rows}


def mutants(rows: dict[str, dict[str, Any]]) -> list[Case]:
    """The answers of the fixture; this Python must write them as the one that made it."""
    solutions = [(task_id, rows[task_id]["canonical_solution"]) for task_id in VERDICTS["passing"]]
    found = []
    for seed, task_id, stored, verdict in VERDICTS["mutants"]:
        drawn, answer = answer_of(solutions, seed)
        assert (drawn, digest(answer)) == (task_id, stored)
        found.append((task_id, answer, verdict))
    return found


def disagreements(folder: Path, rows: dict[str, dict[str, Any]], cases: Sequence[Case]) -> list[tuple[str, str, int]]:
    """The cases whose score differs from EvalPlus' verdict."""
    for metric in ("base", "plus"):
        (folder / metric).mkdir()
    used = [rows[task_id] for task_id in dict.fromkeys(task_id for task_id, _, _ in cases)]
    base, plus = (open_code(folder / metric, *used, metric=metric, seconds=5.0) for metric in ("base", "plus"))

    async def scored(task: CodeTask, task_id: str, answer: str) -> bool:
        sample = next(sample for sample in task.samples("search") if sample.row["task_id"] == task_id)
        return (await task.score(sample, Scripted(lambda prompt: answer))).score == 1

    async def agrees(case: Case) -> bool:
        task_id, answer, verdict = case
        if verdict == 2:  # correct on all inputs
            return await scored(plus, task_id, answer)
        on_base = await scored(base, task_id, answer)
        return not on_base if verdict == 0 else on_base and not await scored(plus, task_id, answer)

    async def compare() -> list[bool]:
        return await asyncio.gather(*map(agrees, cases))

    return [case for case, same in zip(cases, asyncio.run(compare()), strict=True) if not same]


def answers(rows: dict[str, dict[str, Any]]) -> list[Case]:
    """The canonical solution and a stub for every problem, and the mutants."""
    passing = VERDICTS["passing"]
    correct = [(task_id, rows[task_id]["canonical_solution"], 2) for task_id in passing]
    stubs = [(task_id, stub(rows[task_id]["entry_point"]), VERDICTS["stubs"].get(task_id, 0)) for task_id in passing]
    return [*correct, *stubs, *mutants(rows)]


def test_answers_to_every_sixth_problem(tmp_path: Path) -> None:
    rows = problems()
    used = {*VERDICTS["passing"][::6]} - SLOW
    assert disagreements(tmp_path, rows, [case for case in answers(rows) if case[0] in used]) == []


@pytest.mark.slow
def test_answers_to_all_problems(tmp_path: Path) -> None:
    rows = problems()
    assert disagreements(tmp_path, rows, answers(rows)) == []
