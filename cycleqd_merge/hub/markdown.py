"""Escape untrusted text (names, references, files) for Markdown, so that none of it acts as markup."""

from __future__ import annotations

import re
from collections.abc import Iterable


def cell(text: str) -> str:
    """Text for one cell of a Markdown table; HTML and Markdown in it are escaped."""
    return re.sub(r"([\\`*_{}\[\]<>|~#])", r"\\\1", " ".join(str(text).split()))


def code(text: str) -> str:
    """Text as inline code, also within a table."""
    whole = " ".join(str(text).split()).replace("|", "\\|")
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", whole)), default=0))
    space = " " if "`" in whole else ""
    return f"{ticks}{space}{whole}{space}{ticks}"


def fenced(text: str, language: str) -> str:
    """Text as a fenced code block, with a fence that is longer than any in the text."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def sentence(parts: Iterable[str]) -> str:
    """`a`, `b` and `c`."""
    *before, last = parts
    return f"{', '.join(before)} and {last}" if before else last
