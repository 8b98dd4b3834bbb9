"""Extracting the program from an answer."""

from __future__ import annotations

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


def test_a_long_answer_is_read_quickly() -> None:
    lines = [f"x{n} = ({n}" for n in range(5000)]
    assert "x1 =" in extract_program("\n".join(lines), "f")
