"""Our extraction against EvalPlus' sanitiser: on answers of many shapes, all with a right function, never worse.

The verdicts are of EvalPlus 0.3.1, written by evalplus_sanitiser.py: whether the program that its sanitiser extracts
defines a right function.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cycleqd_merge.bounded import Bounds, call
from cycleqd_merge.tasks.code.extract import extract_program
from tests.tasks.code.answer_shapes import CHECK, CHECKS, SHAPES, is_right

VERDICTS = json.loads((Path(__file__).parents[2] / "data" / "evalplus" / "sanitiser.json").read_text())

BETTER = {
    "the longest Python run of the answer is another one, which does not define the function": [
        *("earlier fence 'sh'", "earlier fence 'yaml'", "longer tests in a second", "tests that import it"),
        *("longer example first", "another function after"),
    ],
    "a function that returns nothing is a draft, if there is one that returns a value": [
        *("stub, then full", "ellipsis, then full", "docstring only, then full"),
    ],
    "Markdown: code is indented with its list, quoted, or indented to mark it as code": [
        *("indented in a list", "indented with tabs", "code indented more than its fence", "blockquote"),
        *("indented list with a fence in the docstring", "markdown indented block", "indented program"),
    ],
    "a mark of the beginning or the end is on the code's line": [
        *("closed on the code's line", "all on one line", "[PYTHON] on the same line", "<code> on the same line"),
        *("<pre><code>", "EOT on the same line"),
    ],
    "prompts of the interpreter are not part of the program": ["transcript", "transcript in pycon"],
    "an invisible or odd character is no error of the programmer": [
        *("BOM", "CR", "lone surrogate in prose", "non-breaking spaces", "zero-width space"),
    ],
    "a block uses what another one defines, as in a notebook": [
        *("helper in one, function in the next", "import in one, function in the next", "constant in the next"),
    ],
    "thoughts hold drafts, the answer follows": [
        *("thoughts with a draft", "thoughts with a longer draft", "thoughts without beginning"),
        "thoughts in brackets",
    ],
    "Python's scopes: a function's own name is not the module's, which reads input": ["result of input"],
    "what the function does not need is not imported, nor does it replace the function": [
        *("unused import that is missing", "tests imported from it"),
    ],
    "decorated definitions are definitions": [
        *("decorator", "decorator of several lines", "decorated helper", "dataclass", "singledispatch"),
        "class decorator of several lines",
    ],
    "a helper need not return a value": ["generator helper", "helper without return"],
    "statements at module level change what the function uses": [
        *("dict filled later", "list filled later", "table filled in a loop", "table filled by a function"),
        *("augmented constant", "attribute of the function", "attribute of a class"),
        *("recursion limit", "decimal context", "list sorted later", "element deleted later"),
    ],
    "names are also bound by compound statements and starred targets": [
        *("with at module level", "try import", "version check", "else at line start", "walrus"),
        *("finally at line start", "constant of a loop", "starred constant"),
    ],
    "the last definition counts, as in Python": ["overriding definition", "overriding helper"],
}
"""Why we extract a right program where EvalPlus does not."""
REASONS = {name: reason for reason, names in BETTER.items() for name in names}


@pytest.mark.parametrize("name", SHAPES)
def test_a_right_function_is_extracted(name: str) -> None:
    check = CHECKS.get(name, CHECK)
    program = extract_program(SHAPES[name], "add")
    assert call(Bounds(), is_right, program, check), program
    assert VERDICTS[name] is (name not in REASONS)


def test_the_table_is_complete() -> None:
    assert [*VERDICTS] == [*SHAPES]
    assert REASONS.keys() <= SHAPES.keys()
