"""Errors of other libraries in one line."""

from __future__ import annotations

import pytest

from cycleqd_merge.errors import first_line


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
