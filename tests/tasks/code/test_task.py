"""Task kind `code`: its requests, how programs are graded, and answers that attack the grader."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from cycleqd_merge.bounded import Bounds
from cycleqd_merge.config.loading import load_task
from cycleqd_merge.config.recipe import TaskConfig
from cycleqd_merge.config.tasks import CodeTaskConfig
from cycleqd_merge.errors import DataError, TaskError
from cycleqd_merge.tasks.check import check
from cycleqd_merge.tasks.code.task import CodeTask, pass_at
from cycleqd_merge.tasks.protocol import Sampling
from tests.components import DATA
from tests.tasks.code.test_problems import HUB, JSONL
from tests.tasks.scripted import Scripted, defined, write_rows

DOUBLE: dict[str, Any] = {
    "task_id": "Mbpp/1000",
    "prompt": '"""\nWrite a function to double a number.\nassert double(459136) == 918272\n"""\n',
    "entry_point": "double",
    "canonical_solution": "def double(x):\n    return 2 * x\n",
    "base_input": [[459136]],
    "plus_input": [[1.5], [-1]],
    "atol": 0,
}

pytestmark = pytest.mark.needs("bubblewrap")


def open_code(folder: Path, *rows: dict[str, Any], **keys: Any) -> CodeTask:
    """A task over `rows`, the same for both splits."""
    write_rows(folder / "rows.jsonl", *(rows or (DOUBLE,)))
    data = {"search": {"path": "rows.jsonl"}, "heldout": {"path": "rows.jsonl"}}
    stated = {"kind": "code", "data": data, "prompt": "{{ instruction }}", "seconds": 2.0, **keys}
    return CodeTask(defined(folder, stated))


def scores(task: CodeTask, *answers: str) -> list[float]:
    """The scores of answers to the task's first sample."""

    async def score() -> list[float]:
        sample = task.samples("search")[0]
        return [(await task.score(sample, Scripted(lambda prompt, a=answer: a))).score for answer in answers]

    return asyncio.run(score())


def test_a_program_is_correct_if_it_returns_the_references_values(tmp_path: Path) -> None:
    task = open_code(tmp_path)
    right = ["def double(x):\n    return x + x", "Sure:\n```python\ndouble = lambda x: x * 2\n```\nDone."]
    wrong = [
        "def double(x):\n    return x",
        "def triple(x):\n    return 2 * x",
        "I cannot.",
        "def double(x):\n    return str(2 * x)",
    ]
    assert scores(task, *right, *wrong) == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]


def test_base_requires_less_than_plus(tmp_path: Path) -> None:
    only_integers = "def double(x):\n    return int(x) * 2"
    assert scores(open_code(tmp_path, metric="base"), only_integers) == [1.0]
    assert scores(open_code(tmp_path, metric="plus"), only_integers) == [0.0]


def test_errors_and_endless_loops_are_wrong_answers(tmp_path: Path) -> None:
    task = open_code(tmp_path)
    bodies = ["raise ValueError", "while True: pass", "import os; os._exit(0)", "exit()", "return double(x)"]
    bodies.append("return 'x' * 10**10")
    assert scores(task, *(f"def double(x):\n    {body}" for body in bodies)) == [0.0] * 6


def test_an_answer_that_takes_too_long_to_read_has_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cycleqd_merge.tasks.code.task._BOUNDS", Bounds(seconds=0.1))
    slow = "\n".join(f"double = {name}" for name in range(20_000))
    assert scores(open_code(tmp_path), slow, "def double(x):\n    return 2 * x") == [0.0, 1.0]


ATTACKS = {
    "equal to everything": "class Yes(int):\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__\n"
    "def double(x):\n    return Yes(7)",
    "an object equal to everything": "class Yes:\n    def __eq__(self, other): return True\n"
    "def double(x):\n    return Yes()",
    "float equal to everything": "class Yes(float):\n    def __eq__(self, other): return True\n"
    "    def __sub__(self, other): return 0.0\ndef double(x):\n    return Yes(7)",
    "lists that misreport their items": "class Yes(list):\n    def __iter__(self): return iter([918272])\n"
    "def double(x):\n    return Yes([1])",
    "a pickle that runs": "import os\nclass P:\n    def __reduce__(self): return (os.system, ('touch HOST',))\n"
    "def double(x):\n    return P()",
    "results written directly": "import os\ndef double(x):\n    for fd in range(1, 64):\n"
    "        try: os.write(fd, b'0\\n' * 3)\n        except OSError: pass\n    os._exit(0)",
    "a replaced JSON writer": "import json\njson.dumps = lambda *a, **k: '918272'\ndef double(x):\n    return 0",
    "a replaced runner": "import sys\nsys.modules['__main__'].to_text = lambda value: '[\"int\", \"0x0\"]'\n"
    "def double(x):\n    return 0",
    "code at import": "import os\nprint('[1]', flush=True)\nos.kill(os.getppid(), 9)\ndef double(x):\n    return 0",
    "numbers of one hash": "def double(x):\n    return {n * (2**61 - 1) for n in range(20_000)}",
    "an endless generator": "import itertools\ndef double(x):\n    return itertools.count()",
    "a list that contains itself": "def double(x):\n    items = []\n    items.append(items)\n    return items",
    "a class that takes a known name": "class Fraction:\n    __module__ = 'fractions'\n    numerator = 918272\n"
    "    denominator = 1\n    def __eq__(self, other): return True\ndef double(x):\n    return {Fraction(): 1}",
    "a search for the grader": "import gc\ndef double(x):\n    return [o for o in gc.get_objects() if o == 918272]",
}


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_an_answer_that_attacks_its_grader_is_wrong(tmp_path: Path, attack: str) -> None:
    host = tmp_path / "touched"
    task = open_code(tmp_path)
    assert scores(task, ATTACKS[attack].replace("HOST", str(host)), "def double(x):\n    return 2 * x") == [0.0, 1.0]
    assert not host.exists()


def test_a_program_has_numpy_and_no_other_package(tmp_path: Path) -> None:
    task = open_code(tmp_path)
    with_numpy = "import numpy as np\ndef double(x):\n    return float(np.array([x]).sum() * 2)"
    available = ["fractions", "decimal", "sqlite3", "ctypes", "ssl", "zoneinfo", "unittest", "numpy.linalg"]
    missing = ["torch", "transformers", "yaml", "pydantic", "pip", "setuptools", "cycleqd_merge", "tests"]
    imports = "\n".join(f"import {name}" for name in available)
    body = "".join(
        f"    try:\n        import {name}\n        return 0\n    except ImportError:\n        pass\n"
        for name in missing
    )
    assert scores(task, with_numpy, f"{imports}\ndef double(x):\n{body}    return 2 * x") == [1.0, 1.0]


def test_a_programs_module_and_the_order_of_its_sets(tmp_path: Path) -> None:
    words = '"""Write a function to list the letters.\nassert letters("ab") == ["a", "b"]\n"""\n'
    solution = "def letters(text):\n    return list(set(text.split()))\n"
    row = {**DOUBLE, "prompt": words, "entry_point": "letters", "canonical_solution": solution, "plus_input": []}
    row["base_input"] = [["the quick brown fox jumps over the lazy dog"]]
    task = open_code(tmp_path, row)
    dataclass = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom typing import ClassVar\n"
        "@dataclass(frozen=True)\nclass Word:\n    text: str\n    count: ClassVar[int] = 0\n"
        "def letters(text):\n    return [Word(word).text for word in set(text.split())]\n"
    )
    assert scores(task, solution, dataclass) == [1.0, 1.0]


def test_an_error_is_never_a_correct_value(tmp_path: Path) -> None:
    """MBPP has functions of which every value, or every value but None, is correct."""
    row = {**DOUBLE, "entry_point": "check_str", "canonical_solution": "def check_str(x):\n    return 'match'\n"}
    task = open_code(tmp_path, {**row, "prompt": DOUBLE["prompt"].replace("double", "check_str")})
    assert scores(task, "def check_str(x):\n    raise ValueError", "def check_str(x):\n    return object()") == [0, 1]


def test_own_rules_are_those_of_the_benchmarks_own_problems(tmp_path: Path) -> None:
    row = {**DOUBLE, "task_id": "Mine/1", "entry_point": "check_str"}
    row |= {"canonical_solution": "def check_str(x):\n    return str(x)\n"}
    task = open_code(tmp_path, {**row, "prompt": DOUBLE["prompt"].replace("double", "check_str")})
    assert scores(task, "def check_str(x):\n    return 'other'", "def check_str(x):\n    return f'{x}'") == [0, 1]


def test_a_program_cannot_reach_the_expected_value(tmp_path: Path) -> None:
    """The program searches all frames and objects for the number; as a control, it must find its own input there."""
    search = """
import gc, sys
def double(x):
    frame, texts = sys._getframe(), []
    while frame:
        texts.append(repr(frame.f_locals) + repr(frame.f_globals))
        frame = frame.f_back
    texts += [repr(o) for o in gc.get_objects() if isinstance(o, (dict, list, tuple, str, bytes))]
    texts += [open(path, 'rb').read().decode('latin1') for path in ('/proc/self/cmdline', '/proc/self/environ')]
    finds = lambda number: any(str(number) in text or hex(number) in text for text in texts)
    return 2 * x if finds(x) and not finds(2 * x) else 0
"""
    row = {**DOUBLE, "base_input": [[45913617820495163]]}  # too long to be part of an address in memory by chance
    assert scores(open_code(tmp_path, row, metric="base"), search) == [1.0]


def test_several_answers_give_pass_at_k(tmp_path: Path) -> None:
    task = open_code(tmp_path, answers=4, k=2, temperature=0.8)
    replies = iter(["def double(x):\n    return 2 * x", "no", "no", "no"])
    model = Scripted(lambda prompt: next(replies))
    outcome = asyncio.run(task.score(task.samples("search")[0], model))
    assert outcome.score == pytest.approx(0.5)  # of the 6 pairs, 3 contain the correct answer
    assert [request[2] for request in model.requests] == [Sampling(512, 0.8, (), seed) for seed in range(4)]


def test_pass_at_k_is_the_share_of_draws_with_a_correct_answer() -> None:
    assert pass_at(1, 5, 2) == pytest.approx(0.4)
    assert pass_at(5, 5, 1) == 1.0
    assert pass_at(3, 10, 0) == 0.0


def test_the_shipped_task_prompts_as_the_paper_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_task(TaskConfig(task="mbpp-plus"))
    assert isinstance(loaded, CodeTaskConfig)
    rows = write_rows(tmp_path / "rows.jsonl", HUB)
    data = {"search": {"path": str(rows)}, "heldout": {"path": str(rows)}}
    task = CodeTask(CodeTaskConfig.model_validate({**loaded.model_dump(exclude_unset=True), "data": data}))
    model = Scripted(
        lambda prompt: "\ndef similar_elements(a, b):\n    return tuple(set(a) & set(b))\n```\nThat is all."
    )
    outcome = asyncio.run(task.score(task.samples("search")[0], model))
    assert outcome.score == 1.0
    ((_, messages, sampling, template),) = model.requests
    assert sampling == Sampling(512, 0.0, ("Instruction:", "Instruction", "Response:", "Response"))
    import jinja2

    assert jinja2.Template(template).render(messages=messages) == (
        "You are an exceptionally intelligent coding assistant that consistently delivers accurate and reliable "
        "responses to user instructions.\n\n@@ Instruction:\nWrite a function to find the shared elements. Your code "
        "should satisfy the following assertion:\n```python\n"
        "assert similar_elements((3, 4), (5, 4)) == (4,)\n```\n\n@@ Response:```python"
    )


def test_the_shipped_humaneval_lets_the_model_continue_the_functions_head(tmp_path: Path) -> None:
    row = {
        **DOUBLE,
        "task_id": "HumanEval/1000",
        "prompt": 'import math\n\n\ndef double(x: float) -> float:\n    """Twice x.\n    >>> double(1)\n    """\n',
        "canonical_solution": "    return 2 * x\n",
    }
    loaded = load_task(TaskConfig(task="humaneval-plus"))
    assert isinstance(loaded, CodeTaskConfig)
    rows = write_rows(tmp_path / "rows.jsonl", row, {**row, "task_id": "HumanEval/1001"})
    data = {"rows": {"path": str(rows)}}
    task = CodeTask(CodeTaskConfig.model_validate({**loaded.model_dump(exclude_unset=True), "data": data}))
    assert scores(task, "\n    return x + x\n```\nDone.", "\n    return x\n```", "\n    y = 2\n    return y * x") == [
        1,
        0,
        1,
    ]
    verdicts = asyncio.run(check(task, task.samples("search")))
    assert [verdict.score for verdict in verdicts] == [1.0, 1.0, 0.0, 0.0, 0.0]  # both problems have the same solution


def test_problems_without_base_inputs_have_no_base_score(tmp_path: Path) -> None:
    row = {**JSONL, "base_input": []}
    with pytest.raises(TaskError, match="has no separate base inputs; use `metric: plus`"):
        open_code(tmp_path, row, metric="base")


@pytest.mark.needs("published data")
def test_the_grader_is_correct_on_real_problems(tmp_path: Path) -> None:
    lines = (DATA / "MbppPlus-2023-11-16.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines[::25]]
    task = open_code(tmp_path, *rows)
    verdicts = asyncio.run(check(task, task.samples("search")))
    assert len(verdicts) == 5 * len(rows)
    assert [verdict for verdict in verdicts if not verdict.passed] == []


def test_an_error_names_the_line(tmp_path: Path) -> None:
    with pytest.raises(DataError) as raised:
        open_code(tmp_path, JSONL, {name: value for name, value in JSONL.items() if name != "entry_point"})
    assert str(raised.value).startswith(f"{tmp_path}/rows.jsonl:2: not a problem in EvalPlus' format: no column")
