"""Known answers of kind `generate`: `task check` finds references that the scorer cannot accept, and only those."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from cycleqd_merge.tasks.check import GradingCheck, check
from cycleqd_merge.tasks.generate import GenerateTask
from cycleqd_merge.tasks.sample_text import matching_text
from tests.tasks.scripted import open_task


def graded(task: GenerateTask) -> list[GradingCheck]:
    return asyncio.run(check(task, task.samples("search")))


def rows(*answers: Any) -> list[dict[str, Any]]:
    return [{"q": f"{place}?", "answer": answer} for place, answer in enumerate(answers)]


EXACT, NUMBER, F1 = {"kind": "exact"}, {"kind": "number"}, {"kind": "token_f1"}


@pytest.mark.parametrize(
    ("scorer", "answers"),
    [
        (EXACT, ["Paris", "Rome", "42", "+", "-", "Dr. Who", "a b", "b a"]),
        ({**EXACT, "lowercase": True}, ["Paris", "paris", "PARIS!", "Rome"]),  # equal answers are no near misses
        ({**EXACT, "strip": ".", "squeeze": True}, ["the  end.", "the end", "other"]),
        ({**EXACT, "pattern": r"#### (-?[\d,.]+)"}, ["1,234", "7", "-2.5", "7"]),
        ({**EXACT, "pattern": r"answer: (yes|no)", "lowercase": True}, ["Yes", "no"]),
        ({**EXACT, "pattern": r"\$?(\d+)", "replace": {"$": ""}}, ["$5", "6"]),
        ({**EXACT, "pattern": r"\(([A-D])\)"}, ["A", "B", "C"]),
        ({**EXACT, "pattern": r"(?s)<answer>\s*(.*?)\s*</answer>"}, ["two\nlines", "one"]),
        ({**EXACT, "first_line": True}, ["one", "two"]),
        (NUMBER, ["7", "8", "-1.5", "1e3", "1,234", "the answer is 12", "123456789012345678901"]),
        ({**NUMBER, "tolerance": 2.5}, ["7", "8", "40"]),
        ({**NUMBER, "pattern": "####([^#]*)"}, ["7", "8", "3.14"]),
        (F1, ["a b", "b a", "a b c", "x"]),
        ({**F1, "lowercase": True, "first_line": True}, ["The Cat", "the cat", "dog"]),
        ({"kind": "regex"}, ["^[0-9]+$", "cat|dog", r"\bParis\b", "cat", "catalog"]),
        ({"kind": "regex", "full": True}, ["[A-Z][a-z]+", r"\d{3}-\d{2}"]),
        ({"kind": "multiple_choice", "choices": ["yes", "no", "no "]}, ["yes", "no"]),
        ({"kind": "multiple_choice", "choices": ["only"]}, ["only", "only"]),
    ],
)
def test_right_answers_are_accepted_and_near_misses_rejected(
    tmp_path: Path, scorer: dict[str, Any], answers: list[str]
) -> None:
    verdicts = graded(open_task(tmp_path, *rows(*answers), scorer=scorer))
    assert [verdict for verdict in verdicts if not verdict.passed] == []
    assert sum(verdict.answer == "gold" for verdict in verdicts) == len(answers)


@pytest.mark.parametrize(
    ("scorer", "answers", "wrong"),
    [
        ({**F1, "first_line": True}, ["one", "two\nlines"], [(1, "gold")]),
        ({**EXACT, "pattern": r"#### (\d+)", "replace": {",": ""}}, ["1,200", "1.5"], [(1, "gold")]),
        ({**NUMBER, "pattern": r"= (\d+)"}, ["7", "1.5"], [(1, "gold")]),
        ({**EXACT, "strip": "."}, ["a", "."], [(1, "empty")]),
    ],
)
def test_a_reference_that_the_scorer_reads_wrongly_is_reported(
    tmp_path: Path, scorer: dict[str, Any], answers: list[str], wrong: list[tuple[int, str]]
) -> None:
    task = open_task(tmp_path, *rows(*answers), scorer=scorer)
    ids = [sample.id for sample in task.samples("search")]
    found = [(ids.index(each.sample), each.answer) for each in graded(task) if not each.passed]
    assert found == wrong


def test_a_python_scorer_alone_knows_what_is_right(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def score(output, reference):\n    return 0.5\n")
    task = open_task(tmp_path, *rows("a", "b"), scorer={"kind": "python", "target": "mine.py:score"})
    assert graded(task) == []


@pytest.mark.parametrize(
    ("pattern", "captured", "text"),
    [
        (r"#### (-?[\d,]+)", "42", "#### 42"),
        (r"\\boxed\{([^}]*)\}", "x", "\\boxed{x}"),
        (r"(?:the|a) (?P<what>\w+)?", "cat", "the cat"),
        (r"^[0-9]{3,5}[^a-z0-9]$", None, "000 "),
        (r"a(?=b)b", None, None),
        (r"(a)\1", None, None),
        (r"x{100000}", None, None),
        ("(" * 500 + ")" * 500, None, None),
    ],
)
def test_a_text_is_written_for_a_pattern(pattern: str, captured: str | None, text: str | None) -> None:
    assert matching_text(pattern, captured) == text
    assert text is None or re.search(pattern, text)
