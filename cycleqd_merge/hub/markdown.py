"""Texts of others in Markdown: names, references and files stay texts, whatever they hold."""

from __future__ import annotations

import re
from collections.abc import Iterable


def cell(text: str) -> str:
    """A text for a Markdown table: it stays one cell, and neither HTML nor Markdown in it acts."""
    return re.sub(r"([\\`*_{}\[\]<>|~#])", r"\\\1", " ".join(str(text).split()))


def code(text: str) -> str:
    """A text as inline code, within a table too."""
    whole = " ".join(str(text).split()).replace("|", "\\|")
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", whole)), default=0))
    space = " " if "`" in whole else ""
    return f"{ticks}{space}{whole}{space}{ticks}"


def fenced(text: str, language: str) -> str:
    """A text as a block of code that nothing in it can end."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def sentence(parts: Iterable[str]) -> str:
    """`a`, `b` and `c`."""
    *before, last = parts
    return f"{', '.join(before)} and {last}" if before else last
