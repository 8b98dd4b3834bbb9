"""Scoring an output against a reference: pure functions of text. Scores are in [0, 1], higher is better."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from functools import partial

from cycleqd_merge.config import user_code
from cycleqd_merge.config.scorers import (
    ExactScorerConfig,
    NumberScorerConfig,
    PythonScorerConfig,
    RegexScorerConfig,
    TokenF1ScorerConfig,
)
from cycleqd_merge.tasks.matching import is_found, last_match

TextScorer = Callable[[str, str], float]
"""(output, reference) -> score"""

_MINUS = "\u2212\u2013\uff0d\ufe63"  # minus sign, en dash, full-width and small hyphen
_ASCII_MINUS = str.maketrans(_MINUS, "-" * len(_MINUS))
_LONGEST = 2**20  # characters at a text's end in which its last number is looked for
_SPACES = "\u00a0\u2009\u202f"  # that separate thousands: no-break, thin, narrow no-break space
_NUMBER = re.compile(
    rf"""
    ((?<![\w)\]])[-+{_MINUS}])?  # no sign after a digit or a word: 3-5, COVID-19
    [$€£¥₹]?
    (
        (?: [1-9]\d{{0,2}}(?:[,{_SPACES}]\d{{3}}){{1,40}}(?!\d)  # thousands; 40 groups, for linear time
          | [1-9]\d?(?:,\d\d){{1,40}},\d{{3}}(?!\d)  # 12,34,567, as in India
          | \d+
        )(?:\.\d+)?
        | \.\d+
    )
    ([eE][-+{_MINUS}]?\d+)?
    """,
    re.VERBOSE,
)


def text_scorer(
    options: ExactScorerConfig | TokenF1ScorerConfig | NumberScorerConfig | RegexScorerConfig | PythonScorerConfig,
) -> TextScorer:
    """The function (output, reference) -> score that `options` describe.

    Raises:
        UserError: a `python` scorer cannot be loaded.
    """
    if isinstance(options, PythonScorerConfig):
        return partial(user_code.find(options.target), **options.options)
    functions: dict[str, Callable[..., float]] = {
        "exact": exact,
        "token_f1": token_f1,
        "number": number,
        "regex": regex,
    }
    return partial(functions[options.kind], options=options)


def uses_patterns(options: object) -> bool:
    """Whether a scorer matches regular expressions, which happens in a child process: call it in a thread."""
    return isinstance(options, RegexScorerConfig) or getattr(options, "pattern", None) is not None


def exact(output: str, reference: str, options: ExactScorerConfig) -> float:
    """1 if output and reference are equal after normalisation."""

    def normal(text: str) -> str:
        if options.lowercase:
            text = text.lower()
        for old, new in options.replace.items():
            text = text.replace(old, new)
        if options.squeeze:
            text = " ".join(text.split())
        blanks = "".join(character for character in text if character.isspace())
        return text.strip(blanks + (options.strip or ""))

    answer = last_match(options.pattern, output) if options.pattern else output
    if answer is None:
        return 0.0
    if options.first_line:
        answer = _first_line(answer)
    return float(normal(answer) == normal(reference))


def token_f1(output: str, reference: str, options: TokenF1ScorerConfig) -> float:
    """F1 over white-space tokens, counted with multiplicity: the harmonic mean of precision and recall."""
    answer = _first_line(output) if options.first_line else output
    if options.lowercase:
        answer, reference = answer.lower(), reference.lower()
    found, wanted = Counter(answer.split()), Counter(reference.split())
    shared = (found & wanted).total()
    if not shared:
        return float(not found and not wanted)
    precision, recall = shared / found.total(), shared / wanted.total()
    return 2 * precision * recall / (precision + recall)


def number(output: str, reference: str, options: NumberScorerConfig) -> float:
    """1 if the last number in the output (or in the pattern's last match) is the reference's, within the tolerance.

    A comma separates thousands only between groups of digits that a number can have: `1,234` is one number, `3,4` two.
    """
    text = last_match(options.pattern, output) if options.pattern else output
    found, wanted = last_number(text or ""), last_number(reference)
    if found is None or wanted is None:
        return 0.0
    if options.tolerance == 0 and is_integer(found) and is_integer(wanted):
        return float(Decimal(found) == Decimal(wanted))  # floats cannot tell long integers apart
    return float(abs(float(found) - float(wanted)) <= options.tolerance)


def regex(output: str, reference: str, options: RegexScorerConfig) -> float:
    """1 if the reference, a regular expression, is found in the output (with `full`: matches all of it)."""
    return float(is_found(reference, output.strip(), options.full))


def _first_line(text: str) -> str:
    return next(iter(text.strip().splitlines()), "")


def last_number(text: str) -> str | None:
    """The last number in a text, as Python reads it; None if there is none."""
    match = None
    for match in _NUMBER.finditer(text[-_LONGEST:]):  # noqa: B007
        pass
    if match is None:
        return None
    sign, digits, exponent = match.groups(default="")
    return sign.translate(_ASCII_MINUS) + re.sub(rf"[,{_SPACES}]", "", digits) + exponent.translate(_ASCII_MINUS)


def is_integer(number: str) -> bool:
    """Whether a number of `last_number` is written as an integer."""
    return number.lstrip("+-").isdecimal()
