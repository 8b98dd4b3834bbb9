"""References that no output can match, or that every output matches: found before a model is loaded."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Sequence

from cycleqd_merge.bounded import Bounds, LimitExceeded, call
from cycleqd_merge.config.patterns import pattern_problem
from cycleqd_merge.config.scorers import (
    ExactScorerConfig,
    NumberScorerConfig,
    PythonScorerConfig,
    RegexScorerConfig,
    TokenF1ScorerConfig,
)
from cycleqd_merge.config.validation_errors import short_repr
from cycleqd_merge.tasks.generate_answers import right_texts, until_stop
from cycleqd_merge.tasks.matching import is_found
from cycleqd_merge.tasks.scorers import exact, is_integer, last_number

TextScorerConfig = ExactScorerConfig | TokenF1ScorerConfig | NumberScorerConfig | RegexScorerConfig | PythonScorerConfig
_BOUNDS = Bounds(seconds=1.0)
_ANYTHING = ("", "\u2603", "q7")
"""Outputs with nothing in common: few regular expressions match all of them."""
_MORE = ("a b, c.\n\n- 1: 2\nAnd (so) on!", string.printable.strip(), "caf\xe9 \u0416 \u4e2d\u6587 \u3042", "x" * 9999)
"""Outputs that expressions reject which demand what an answer is not: `^\\S*$`, `^.{0,50}$`, `^[^,]*$`."""
_NOT_DECIMAL = re.compile(
    r"""
    ( \d \s* / \s* \d[\d.,]*  # 1/2
    | \d [\u00bc-\u00be\u2150-\u215e]  # 2½
    | \\[dtc]?frac \s* (\{[^{}]*\}|\d) \s* (\{[^{}]*\}|\d)
    | \\sqrt \s* (\{[^{}]*\}|\d+)
    | \^ \s* \{?[-+]?\d+\}?  # 10^5, m^2
    ) \W* $
    """,
    re.VERBOSE,
)


def reference_problem(reference: str, scorer: TextScorerConfig, stop: Sequence[str] = ()) -> str | None:
    """What is wrong with a reference, and what to do; None if a right output exists and a wrong one does.

    stop: strings that an output never contains.
    """
    if isinstance(scorer, NumberScorerConfig):
        return _number_problem(reference)
    if isinstance(scorer, RegexScorerConfig):
        return _regex_problem(reference, scorer)
    if isinstance(scorer, ExactScorerConfig):
        return _exact_problem(reference, scorer, stop)
    return None


def _number_problem(reference: str) -> str | None:
    number = last_number(reference)
    if number is None:
        return f"{reference!r} contains no number; correct it, or use another scorer"
    if not is_integer(number) and not math.isfinite(float(number)):
        return f"{reference!r} is too large a number; use the scorer `exact`"
    if _NOT_DECIMAL.search(reference):
        return f"{reference!r} ends in a fraction, root or power, which is read as {number}; write it as a decimal"
    return None


def _regex_problem(reference: str, scorer: RegexScorerConfig) -> str | None:
    if (problem := pattern_problem(reference)) is not None:
        return f"{short_repr(reference)} is not a regular expression: {problem}"
    if all(is_found(reference, output, scorer.full) for output in (*_ANYTHING, *_words_of(reference), *_MORE)):
        kind = "an empty regular expression" if not reference else f"{reference!r}"
        return f"{kind} matches every output, so that every answer scores 1; write what a right answer must contain"
    return None


def _words_of(expression: str) -> list[str]:
    """The texts that a regular expression mentions: it may say that an answer lacks one, as `^(?!.*sorry)` does."""
    literal = re.sub(r"\\(.)", lambda escape: " " if escape[1].isalnum() else escape[1], expression)
    return [expression, literal, *re.findall(r"\w+|[^\w\s]", literal)]


def _exact_problem(reference: str, scorer: ExactScorerConfig, stop: Sequence[str]) -> str | None:
    if exact(reference, reference, scorer.model_copy(update={"pattern": None})) != 1.0:
        return f"{reference!r} has several lines and `first_line` reads one; choose one, or leave out `first_line`"
    if scorer.pattern is not None:
        return _pattern_problem(reference, scorer)
    if any(exact(until_stop(text, stop), reference, scorer) == 1.0 for text in right_texts(scorer, reference)):
        return None
    end = next(text for text in stop if text and text in reference.strip())
    return f"{reference!r} contains {end!r}, at which `stop` ends every answer; change one of them"


def _pattern_problem(reference: str, scorer: ExactScorerConfig) -> str | None:
    """A reference that `pattern` cannot find, as far as its group alone decides that."""
    pattern = str(scorer.pattern)
    if scorer.replace or scorer.strip:
        return None
    plain = scorer.model_copy(update={"pattern": None})
    forms = [text for text in right_texts(plain, reference.strip()) if exact(text, reference, plain) == 1.0]
    candidates = [before + form + after for form in forms for before in ("", " ", "\n") for after in ("", " ", "\n")]
    try:
        group = call(_BOUNDS, _unmatched_group, pattern, scorer.lowercase, candidates)
    except LimitExceeded:
        return None
    if group is None:
        return None
    return f"{reference!r} cannot be found by `pattern`, which looks for {group}; change one of them"


def _unmatched_group(pattern: str, lowercase: bool, candidates: Sequence[str]) -> str | None:
    """In a child: what the pattern's group must match, if no candidate does; None if one may."""
    group = _group(pattern)
    if group is None:
        return None
    flags = re.compile(pattern).flags | (re.IGNORECASE if lowercase else 0)
    try:
        found = any(re.fullmatch(group, candidate, flags) for candidate in candidates)
    except re.error:
        return None
    return None if found else group


def _group(pattern: str) -> str | None:
    """What the only group of a regular expression must match, or all of it; None if that depends on the text around."""
    groups = re.compile(pattern).groups
    text = pattern if groups == 0 else _between_brackets(pattern)
    scoped = re.search(r"\(\?[aiLmsux-]+:", pattern)  # flags of a part
    if groups > 1 or text is None or scoped or re.search(r"\(\?|\\[bBAZ]|[\^$]", text):
        return None
    return text


def _between_brackets(pattern: str) -> str | None:
    """The text of a regular expression's first group."""
    starts: list[int | None] = []  # of the groups that are open; None for groups that capture nothing
    for part in re.finditer(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\??|\)", pattern, re.DOTALL):
        if part[0] in ("(", "(?"):
            starts.append(part.end() if part[0] == "(" else None)
        elif part[0] == ")" and (start := starts.pop()) is not None:
            return pattern[start : part.start()]
    return None
