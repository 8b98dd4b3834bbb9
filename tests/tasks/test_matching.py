"""Regular expressions within limits: Python's results, or none in time."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cycleqd_merge.tasks.generate import GenerateTask
from cycleqd_merge.tasks.matching import is_found, last_match
from tests.tasks.scripted import Scripted, defined, write_rows

PATTERNS = ["a", "(a+)b", "(a)|(b)", "a(?=b)", r"(?i)B\b", "^a|b$", "", r"([\ud800-\udfff])", "(é)(b)?", r"(?m)^(.*)$"]


@given(st.sampled_from(PATTERNS), st.text("abBé\n\ud800 ", max_size=12))
def test_the_results_are_pythons(pattern: str, text: str) -> None:
    assert is_found(pattern, text) is (re.search(pattern, text) is not None)
    assert is_found(pattern, text, full=True) is (re.fullmatch(pattern, text) is not None)
    matches = list(re.finditer(pattern, text))
    expected = matches[-1].group(1 if matches[-1].re.groups else 0) if matches else None
    assert last_match(pattern, text) == expected


@pytest.mark.parametrize(
    "pattern", [r"(a+)+$", r"(a|aa)+$", r"(.*)*x$", r"(a*)*b", r"^(\w+\s?)*$", r"(?:a?){30}a{30}$"]
)
def test_a_pattern_that_takes_too_long_matches_nothing(pattern: str) -> None:
    text = "a" * 29 + " " * 5 + "a" * 40 + "!"
    assert not is_found(pattern, text)
    assert last_match(pattern, text) is None


@pytest.mark.parametrize(
    ("scorer", "answer"),
    [
        ({"kind": "regex"}, "(a+)+$"),
        ({"kind": "exact", "pattern": "((a|aa)+)$"}, "aa"),
        ({"kind": "number", "pattern": "((1|11)+)$"}, "11"),
    ],
)
def test_a_hostile_expression_costs_one_sample(tmp_path: Path, scorer: dict[str, Any], answer: str) -> None:
    right, hostile = answer[0] * 2 if len(answer) == 2 else "aa", ("1" if "1" in answer else "a") * 80 + "!"
    write_rows(tmp_path / "rows.jsonl", *({"prompt": text, "answer": answer} for text in (hostile, right, hostile)))
    data = {"search": {"path": "rows.jsonl"}, "heldout": {"path": "rows.jsonl"}}
    task = GenerateTask(
        defined(tmp_path, {"kind": "generate", "data": data, "prompt": "{{ prompt }}", "scorer": scorer})
    )

    async def score() -> list[float]:
        samples = task.samples("search")
        return [each.score for each in await asyncio.gather(*(task.score(it, Scripted(str)) for it in samples))]

    assert asyncio.run(score()) == [0.0, 1.0, 0.0]
