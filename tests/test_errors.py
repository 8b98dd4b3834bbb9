"""Errors as one printable line, those of other libraries too."""

from __future__ import annotations

import pickle

import pytest

from cycleqd_merge.errors import DataError, first_line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("one line", "one line"),
        ("  first \nsecond", "first"),
        ("\n \n\tthird\n", "third"),
        ("", "ValueError"),
        (" \n\r\n", "ValueError"),
    ],
)
def test_an_error_has_a_first_line_even_if_it_says_nothing(text: str, line: str) -> None:
    assert first_line(ValueError(text)) == line
    assert first_line(ValueError()) == "ValueError"


def test_a_message_is_printable_whatever_it_quotes() -> None:
    error = DataError("rows.jsonl: key 'na\ufeffme\x1b[31m\u202e'\nsecond line, with ümlauts and 漢字")
    assert str(error) == "rows.jsonl: key 'na\\ufeffme\\x1b[31m\\u202e'\nsecond line, with ümlauts and 漢字"
    assert str(pickle.loads(pickle.dumps(error))) == f"{error}" == str(error)


def test_a_line_of_a_message_has_an_end() -> None:
    first, second = str(DataError("a" * 5000 + "\nb")).split("\n")
    assert (first.endswith("aaa... (5000 characters)"), len(first) < 1500, second) == (True, True, "b")
