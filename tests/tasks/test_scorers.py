"""Scorers, compared with values computed in another way."""

from __future__ import annotations

import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from cycleqd_merge.config.scorers import MultipleChoiceScorerConfig, ScorerConfig
from cycleqd_merge.errors import UserError
from cycleqd_merge.tasks.scorers import text_scorer


def score(output: str, reference: str, **options: Any) -> float:
    """The score that a task file's `scorer` with these keys gives."""
    scorer = TypeAdapter(ScorerConfig).validate_python(options)
    assert not isinstance(scorer, MultipleChoiceScorerConfig)
    return text_scorer(scorer)(output, reference)


WORDS = st.lists(st.sampled_from(["a", "A", "b", "bb", "ls", "-l", "|", "é"]), max_size=8)
GAPS = st.sampled_from([" ", "  ", "\t", " \u3000 "])


def brute_force_f1(found: list[str], wanted: list[str]) -> Fraction:
    """Pair off equal tokens one by one."""
    left, shared = list(wanted), 0
    for token in found:
        if token in left:
            left.remove(token)
            shared += 1
    if not found and not wanted:
        return Fraction(1)
    return Fraction(2 * shared, len(found) + len(wanted))


@given(found=WORDS, wanted=WORDS, gap=GAPS, lowercase=st.booleans())
def test_token_f1_pairs_off_equal_tokens(found: list[str], wanted: list[str], gap: str, lowercase: bool) -> None:
    given_score = score(gap.join(found), gap.join(wanted), kind="token_f1", lowercase=lowercase)
    if lowercase:
        found, wanted = [word.lower() for word in found], [word.lower() for word in wanted]
    assert given_score == pytest.approx(float(brute_force_f1(found, wanted)), abs=1e-12)


def test_token_f1_reads_only_the_first_line_with_that_option() -> None:
    assert score("\n a b \nc d", "a b", kind="token_f1", first_line=True) == 1.0
    assert score("\n a b \nc d", "a b", kind="token_f1") == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("output", "reference", "expected"),
    [
        ("42", "42", 1),
        ("It was 41, no, 42.", "42", 1),
        ("42 and then 43", "42", 0),
        ("1,234,567 apples", "1234567", 1),
        ("$1,234.50.", "1234.5", 1),
        ("-7", "-7", 1),
        ("-7", "7", 0),
        ("5-7", "7", 1),
        (".5", "0.5", 1),
        ("0.50", ".5", 1),
        ("1e3", "1000", 1),
        ("1.5E-3 m", "0.0015", 1),
        ("007", "7", 1),
        ("12.", "12", 1),
        ("1.2.3", "3", 0),
        ("no number", "0", 0),
        ("", "0", 0),
        ("7", "none", 0),
        ("the answer is\n42\n", "#### 42", 1),
        ("x = (3,4)", "4", 1),  # no separator of thousands
        ("values 10,20", "20", 1),
        ("1,2,3,4", "4", 1),
        ("0,123", "123", 1),
        ("1234,567", "567", 1),
        ("1,2345", "2345", 1),
        ("10,20", "1020", 0),
        ("12,34,567 rupees", "1234567", 1),
        ("1\u00a0234\u202f567", "1234567", 1),
        ("100 200", "200", 1),
        ("\u22125", "-5", 1),  # a minus sign of typography
        ("\u20135", "-5", 1),
        ("\uff0d5", "-5", 1),
        ("5e\u22122", "0.05", 1),
        ("between 3-5", "5", 1),  # a range
        ("2024-01-05", "5", 1),
        ("COVID-19", "19", 1),
        ("f(x)-7", "7", 1),
        ("x = -7", "-7", 1),
        ("(-7)", "-7", 1),
        ("**-7**", "-7", 1),
        ("$-7", "-7", 1),
        ("-$7.50", "-7.5", 1),
        ("+7", "7", 1),
        ("72%", "72", 1),
        ("72%", "0.72", 0),
        ("1/2", "2", 1),  # no arithmetic
        ("0x10", "16", 0),
        ("3.14.", "3.14", 1),
        ("\\boxed{42}", "42", 1),
        ("12345678901234567890", "12345678901234567890", 1),
        ("12345678901234567890", "12345678901234567891", 0),  # equal as floats
        ("12345678901234567890.0", "12345678901234567890", 1),
    ],
)
def test_number_reads_the_last_number(output: str, reference: str, expected: float) -> None:
    assert score(output, reference, kind="number") == expected


@given(value=st.integers(-(10**15), 10**15), before=st.sampled_from(["", "x = ", "1 + 2 = ", "(", "a,b, "]))
@example(value=0, before="")
def test_number_reads_integers_with_and_without_separators(value: int, before: str) -> None:
    for text in (f"{before}{value}", f"{before}{value:,}", f"{before}{value}.", f"{before}{value:,}, of course"):
        assert score(text, str(value), kind="number") == 1.0
        assert score(text, str(value + 1), kind="number") == 0.0


@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_number_reads_every_decimal_as_python_writes_it(value: float) -> None:
    assert score(f"so {value!r}", f"{value!r}", kind="number") == 1.0
    assert score(f"so {value:.17e} m", f"{value!r}", kind="number") == 1.0


@pytest.mark.parametrize(
    ("output", "expected"),
    [("12", 1), ("12.5", 1), ("11.5", 1), ("12.6", 0), ("11", 0)],
)
def test_number_allows_the_tolerance(output: str, expected: float) -> None:
    assert score(output, "12", kind="number", tolerance=0.5) == expected


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("2 + 3 = 5 #### 5", 1),
        ("#### 4\nno: #### 5 euros", 1),
        ("#### 5\nand 6 more", 1),  # the line ends at the next #, not at the next number
        ("5", 0),
        ("####", 0),
        ("#### five", 0),
    ],
)
def test_number_reads_the_last_match_of_a_pattern(output: str, expected: float) -> None:
    pattern = r"####([^#\n]*)"
    assert score(output, "5", kind="number", pattern=pattern) == expected


def test_the_match_of_a_pattern_without_a_group_is_the_answer() -> None:
    assert score("x=1 y=2 z", "2", kind="number", pattern=r"\w=\d") == 1.0
    assert score("x=1 y=2 z", "y=2", kind="exact", pattern=r"\w=\d") == 1.0


def test_a_group_that_does_not_match_gives_no_answer() -> None:
    assert score("b", "", kind="exact", pattern="(a)|b") == 0.0
    assert score("b", "0", kind="number", pattern="(a)|b") == 0.0


@pytest.mark.parametrize(
    ("options", "output", "reference", "expected"),
    [
        ({}, " yes\n", "yes", 1),
        ({}, "Yes", "yes", 0),
        ({}, "a  b", "a b", 0),
        ({}, "", "", 1),
        ({"lowercase": True}, "YES", "yes", 1),
        ({"lowercase": True}, "yes", "YES", 1),
        ({"squeeze": True}, "a \n\t b", "a b", 1),
        ({"squeeze": True}, "a b", "a   b", 1),
        ({"squeeze": True}, "ab", "a b", 0),
        ({"replace": {'"': "'"}}, 'say "a"', "say 'a'", 1),
        ({"replace": {"a": "b", "b": "c"}}, "a", "c", 1),  # in order
        ({"replace": {"b": "c", "a": "b"}}, "a", "c", 0),
        ({"replace": {"A": "x"}, "lowercase": True}, "A", "x", 0),  # lower case comes first
        ({"strip": ";"}, "select 1;", "select 1", 1),
        ({"strip": ";"}, "; select 1 ; ;", "select 1", 1),
        ({"strip": ";"}, "a;b", "ab", 0),
        ({"strip": ".!"}, "yes!..", "yes", 1),
        ({"strip": "-]["}, "[-yes-]", "yes", 1),  # characters, not a pattern
        ({"first_line": True}, "\n\nyes\nno", "yes", 1),
        ({"first_line": True}, "", "", 1),
        ({"pattern": "answer: (.*)"}, "answer: a\nanswer: b", "b", 1),
        ({"pattern": "answer: (.*)"}, "b", "b", 0),
        ({"pattern": "(?s)answer: (.*)", "first_line": True}, "answer: b\nc", "b", 1),
    ],
)
def test_exact_compares_after_the_options(
    options: dict[str, Any], output: str, reference: str, expected: float
) -> None:
    assert score(output, reference, kind="exact", **options) == expected


@given(core=st.text("ab", min_size=1), before=st.text("; \n\u00a0"), after=st.text("; \t\u3000"))
def test_exact_strips_characters_and_white_space_in_any_order(core: str, before: str, after: str) -> None:
    assert score(before + core + after, core, kind="exact", strip=";") == 1.0


@given(left=st.text(max_size=6), right=st.text(max_size=6))
def test_exact_is_equality_up_to_outer_white_space(left: str, right: str) -> None:
    assert score(left, right, kind="exact") == float(left.strip() == right.strip())


@pytest.mark.parametrize(
    ("output", "reference", "full", "expected"),
    [
        ("the answer is 42!", r"\b42\b", False, 1),
        ("the answer is 421", r"\b42\b", False, 0),
        ("the answer is 42", r"\d+", True, 0),
        (" 42\n", r"\d+", True, 1),
        ("42 7", r"\d+", True, 0),
        ("a", "a|ab", True, 1),
        ("ab", "a|ab", True, 1),  # the whole output, by whichever alternative
    ],
)
def test_regex_searches_or_matches_the_whole_output(output: str, reference: str, full: bool, expected: float) -> None:
    assert score(output, reference, kind="regex", full=full) == expected


def test_a_user_defined_scorer_gets_output_reference_and_options(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def share(output, reference, of):\n    return sum(letter in output for letter in reference) / of\n"
    )
    assert score("ab", "abcd", kind="python", target=f"{tmp_path}/mine.py:share", options={"of": 4}) == 0.5


def test_a_missing_user_defined_scorer_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"target .*none\.py: no such file"):
        score("", "", kind="python", target=f"{tmp_path}/none.py:share")


@pytest.mark.parametrize("part", ["12,", "111,", "1,1111", "1", ".1", "1e", "-", "$", "1,11,"])
def test_the_last_number_of_a_repetitive_output_is_found_quickly(part: str) -> None:
    started = time.process_time()
    score(part * 20_000, "1", kind="number")
    assert time.process_time() - started < 5
