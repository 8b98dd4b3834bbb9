"""Extracting the program from an answer."""

from __future__ import annotations

import time

import pytest

from cycleqd_merge.tasks.code.extract import extract_program

F = "def f(x):\n    return x + 1"


@pytest.mark.parametrize(
    ("answer", "program"),
    [
        (F, F),
        (f"```python\n{F}\n```", F),
        (f"Sure!\n```\n{F}\n```\nThis adds one.", F),
        (f"```py\n{F}", F),  # cut off at the token limit
        (f"```python\nprint(1)\n```\nBetter:\n```python\n{F}\n```", F),
        (f"Here it is:\n\n{F}\n\nIt adds one to x.", F),
        (f"{F}\n\nprint(f(1))\nassert f(1) == 2\nif __name__ == '__main__':\n    f(input())", F),
        (f"import math\nfrom os import path\n{F}", f"import math\nfrom os import path\n{F}"),
        (
            "ONE = 1\nTWO = 2\ndef g(x): return x + ONE\ndef f(x): return g(x)",
            "ONE = 1\ndef g(x): return x + ONE\ndef f(x): return g(x)",
        ),
        ("@cache\ndef f(x): return x", "@cache\ndef f(x): return x"),
        ("class C:\n    pass\ndef f(x):\n    return C()", "class C:\n    pass\ndef f(x):\n    return C()"),
        ("f = lambda x: x + 1\ny = input()", "f = lambda x: x + 1"),
        (f"{F}\ndef broken(:\n  pass", F),
    ],
)
def test_the_function_and_its_dependencies_are_kept(answer: str, program: str) -> None:
    assert extract_program(answer, "f") == program


@pytest.mark.parametrize(
    "answer", ["", "I do not know.", "def g(): pass", "(" * 10_000, "\x00", "-" * 50_000 + "1", "```"]
)
def test_an_answer_without_the_function_gives_none(answer: str) -> None:
    assert "def f" not in extract_program(answer, "f")


HOSTILE = {
    "brackets": "(\n" * 20_000,
    "brackets on one line": "(" * 100_000,
    "assignments of brackets": "\n".join(f"f{n} = ({n}" for n in range(5000)),
    "closed brackets": "f = [\n" * 3000 + "]\n" * 3000,
    "mismatched brackets": "f = (]\n" * 5000,
    "quotes": "'''\n" * 5001,
    "mixed quotes": "'''\n\"\"\"\n" * 3001,
    "unfinished definitions": "def f(\n" * 5000,
    "heads": "def f(a, b):\n" * 5000,
    "nested heads": "".join(" " * n + "if f:\n" for n in range(500)),
    "decorators": "@f\n" * 1000,
    "fences": "```\nf\n" * 3000,
    "fences with info strings": "~~~ f\n" * 3000,
    "prompts": ">>> f\n" * 5000,
    "tags": "<code " * 30_000,
    "thoughts": "</think>" * 20_000 + "f",
    "a long sum": "f = " + "1+" * 50_000 + "1",
    "lambdas": "f = " + "lambda: " * 2000 + "1",
    "a chain of names": "\n".join(f"v{n} = v{n + 1}" for n in range(3000)) + "\ndef f(): return v0",
    "prose": "This (is a \"long, 'sentence [about f.\n" * 3000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_long_or_hostile_answer_is_read_quickly(name: str) -> None:
    started = time.process_time()
    extract_program(HOSTILE[name], "f")
    assert time.process_time() - started < 5  # seconds; most take far less


def test_the_time_is_nearly_linear() -> None:
    """400 lines of brackets once took 19 seconds."""
    started = time.process_time()
    for _ in range(5):
        extract_program("(\n" * 400, "f")
    assert time.process_time() - started < 1


def test_statements_of_a_line_are_kept_apart() -> None:
    assert extract_program("é = 1; f = lambda: é; print(f())", "f") == "é = 1\nf = lambda: é"
