"""Checking a task's grader with known answers: what passes, what is reported, and tasks without known answers."""

from __future__ import annotations

import asyncio
import json
from io import StringIO
from pathlib import Path

from rich.console import Console

from cycleqd_merge.report.tables import verdict_table
from cycleqd_merge.tasks.check import GradingCheck, check
from tests.cli.conftest import cycleqd_merge
from tests.tasks.scripted import write_rows

TASK = """
from cycleqd_merge.tasks.protocol import KnownAnswer, Outcome, Sample, Sampling

class Doubles:
    def __init__(self, lenient=False):
        self.lenient = lenient

    def samples(self, split):
        return [Sample(str(n), {"n": n}) for n in (range(3) if split == "search" else range(3, 5))]

    async def score(self, sample, model):
        answer = await model.complete(str(sample.row["n"]), Sampling())
        right = answer.text == str(2 * sample.row["n"])
        return Outcome(float(right or (self.lenient and sample.id == "4")), answer.text)

    def known_answers(self, sample):
        gold = lambda prompt: str(2 * int(prompt))
        return [KnownAnswer("gold", True, gold), KnownAnswer("next number", False, lambda prompt: prompt + "1")]

    def environment(self):
        return "paper and pencil"
"""


def write(folder: Path, **options: bool) -> Path:
    (folder / "doubles.py").write_text(TASK)
    (folder / "doubles.yaml").write_text(f"kind: python\ntarget: doubles.py:Doubles\noptions: {options or '{}'}\n")
    return folder / "doubles.yaml"


def test_every_known_answer_is_graded_by_the_task(tmp_path: Path) -> None:
    scope: dict[str, type] = {}
    exec(TASK, scope)
    task = scope["Doubles"]()
    verdicts = asyncio.run(check(task, task.samples("heldout")))
    assert verdicts == [
        GradingCheck("3", "gold", True, 1.0, "6"),
        GradingCheck("3", "next number", False, 0.0, "31"),
        GradingCheck("4", "gold", True, 1.0, "8"),
        GradingCheck("4", "next number", False, 0.0, "41"),
    ]
    assert all(verdict.passed for verdict in verdicts)


def test_a_correct_grader_passes_on_both_splits(tmp_path: Path) -> None:
    answer = cycleqd_merge("task", "check", write(tmp_path))
    assert (answer.code, answer.err) == (0, "")
    assert "5 of 5" in answer.out
    assert "0 of 5" in answer.out
    assert len(cycleqd_merge("task", "check", write(tmp_path), "--samples", 1, "--json").json) == 4


def test_a_wrong_grade_is_reported_with_its_sample(tmp_path: Path) -> None:
    answer = cycleqd_merge("task", "check", write(tmp_path, lenient=True))
    assert answer.code == 1
    assert answer.err.endswith("1 of 10 known answers are graded incorrectly\n")
    row = next(line for line in answer.out.splitlines() if "next number" in line)
    assert "1 of 5" in row
    assert row.rstrip(" │").endswith("4")


def test_wrong_grades_name_the_first_rows() -> None:
    checks = [GradingCheck(f"id{n}", "gold", True, 0.0, place=f"a[b].jsonl:{n}" if n < 6 else "") for n in range(1, 9)]
    console = Console(width=200, file=(printed := StringIO()))
    console.print(verdict_table(checks))
    console.print(verdict_table(checks[5:]))
    places = ", ".join(f"a[b].jsonl:{n}" for n in range(1, 6))
    assert f"{places}, and 3 more" in printed.getvalue()
    assert "id6, id7, id8 " in printed.getvalue()


def test_a_task_without_known_answers_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    (tmp_path / "doubles.py").write_text(TASK.replace("known_answers", "other_answers"))
    answer = cycleqd_merge("task", "check", path)
    assert answer.code == 2
    assert answer.err.endswith("kind `python` has no known answers to check\n")
    (tmp_path / "mine.py").write_text("def score(output, reference):\n    return 0.5\n")
    write_rows(tmp_path / "rows.jsonl", {"q": "a", "answer": "1"}, {"q": "b", "answer": "2"})
    scorer = {"kind": "python", "target": "mine.py:score"}
    stated = {"kind": "generate", "data": {"rows": {"path": "rows.jsonl"}}, "prompt": "{{ q }}", "scorer": scorer}
    path.write_text(json.dumps(stated))
    answer = cycleqd_merge("task", "check", path)
    assert answer.code == 2
    assert "a `python` scorer decides that itself" in answer.err
