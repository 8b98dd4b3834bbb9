"""References that no output, or every output, matches: compared with trying outputs."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter

from cycleqd_merge.config.scorers import MultipleChoiceScorerConfig, ScorerConfig
from cycleqd_merge.tasks.references import reference_problem
from cycleqd_merge.tasks.scorers import text_scorer

OUTPUTS = ("", " ", "a", "Paris", "7", "-7", "no\nyes", "☃", "x" * 50)


def problem_of(reference: str, stop: tuple[str, ...] = (), **scorer: Any) -> str | None:
    options = TypeAdapter(ScorerConfig).validate_python(scorer)
    assert not isinstance(options, MultipleChoiceScorerConfig)
    return reference_problem(reference, options, stop)


@pytest.mark.parametrize(
    ("reference", "keys", "stop", "problem"),
    [
        ("", {"kind": "number"}, (), "'' contains no number"),
        ("none given", {"kind": "number"}, (), "'none given' contains no number"),
        ("nan", {"kind": "number"}, (), "'nan' contains no number"),
        ("-inf", {"kind": "number"}, (), "'-inf' contains no number"),
        ("1e999", {"kind": "number"}, (), "'1e999' is too large a number"),
        ("1/2", {"kind": "number"}, (), "'1/2' ends in a fraction, root or power, which is read as 2; write it"),
        ("x = 3 / 4.", {"kind": "number"}, (), "'x = 3 / 4.' ends in a fraction"),
        ("2½", {"kind": "number"}, (), "'2½' ends in a fraction"),
        ("$\\frac{1}{2}$", {"kind": "number"}, (), "'$\\\\frac{1}{2}$' ends in a fraction"),  # as in MATH
        ("-\\dfrac34.", {"kind": "number"}, (), "'-\\\\dfrac34.' ends in a fraction"),
        ("3\\sqrt{2}", {"kind": "number"}, (), "'3\\\\sqrt{2}' ends in a fraction, root"),
        ("3 \\times 10^{5}", {"kind": "number"}, (), "'3 \\\\times 10^{5}' ends in a fraction, root or power"),
        ("5 m^2", {"kind": "number"}, (), "'5 m^2' ends in a fraction, root or power"),
        ("½", {"kind": "number"}, (), "'½' contains no number"),
        ("True", {"kind": "number"}, (), "'True' contains no number"),
        ("", {"kind": "regex"}, (), "an empty regular expression matches every output"),
        ("x*", {"kind": "regex"}, (), "'x*' matches every output"),
        ("yes|", {"kind": "regex"}, (), "'yes|' matches every output"),
        ("(yes)?$", {"kind": "regex"}, (), "'(yes)?$' matches every output"),
        ("(?s).*", {"kind": "regex", "full": True}, (), "'(?s).*' matches every output"),
        (r"[\s\S]*", {"kind": "regex", "full": True}, (), "'[\\\\s\\\\S]*' matches every output"),
        ("(?i)(yes|no)?", {"kind": "regex"}, (), "'(?i)(yes|no)?' matches every output"),
        ("(2", {"kind": "regex"}, (), "'(2' is not a regular expression"),
        ("(" * 3000 + ")" * 3000, {"kind": "regex"}, (), "'(((((("),
        ("a\nb", {"kind": "exact", "first_line": True}, (), "'a\\nb' has several lines"),
        ("a\nb", {"kind": "exact", "first_line": True, "pattern": "x(.*)"}, (), "'a\\nb' has several lines"),
        ("a\u2028b", {"kind": "exact", "first_line": True, "squeeze": True}, (), "'a\\u2028b' has several lines"),
        ("a\nb", {"kind": "exact"}, ("\n",), "'a\\nb' contains '\\n', at which `stop` ends every answer"),
        ("U.S.", {"kind": "exact", "strip": "."}, (".",), "'U.S.' contains '.', at which"),
        ("yes", {"kind": "exact", "pattern": r"answer: (\d+)"}, (), "'yes' cannot be found by `pattern`"),
        ("yes", {"kind": "exact", "pattern": r"\d"}, (), "'yes' cannot be found by `pattern`"),
        ("E", {"kind": "exact", "pattern": r"is \(?([A-D])\)?"}, (), "'E' cannot be found by `pattern`"),
        ("b", {"kind": "exact", "pattern": "([A-D])"}, (), "'b' cannot be found by `pattern`"),
        ("", {"kind": "exact", "pattern": "([A-D])"}, (), "'' cannot be found by `pattern`"),
    ],
)
def test_a_reference_that_decides_nothing_is_a_problem(
    reference: str, keys: dict[str, Any], stop: tuple[str, ...], problem: str
) -> None:
    found = problem_of(reference, stop, **keys)
    assert found is not None
    assert found.startswith(problem)
    assert "; " in found or "not a regular" in found
    if "not a regular" not in found and "root or power" not in found:
        scorer = text_scorer(TypeAdapter(ScorerConfig).validate_python(keys))  # type: ignore[arg-type]
        cut = [min((output.split(end)[0] for end in stop), key=len, default=output) for output in (*OUTPUTS, reference)]
        assert len({scorer(output, reference) for output in cut}) == 1


@pytest.mark.parametrize(
    ("reference", "output", "keys", "stop"),
    [
        ("#### 18", "18", {"kind": "number"}, ("####",)),
        ("9" * 400, "9" * 400, {"kind": "number"}, ()),
        ("5/6 of them, #### 18", "18", {"kind": "number"}, ()),
        ("\u22125", "-5", {"kind": "number"}, ()),
        ("50%", "50", {"kind": "number"}, ()),
        ("-0", "0", {"kind": "number"}, ()),
        ("5 m²", "5", {"kind": "number"}, ()),
        ("a 2x^2 + 1/2 = 0: x = 4", "4", {"kind": "number"}, ()),
        ("^$", "", {"kind": "regex"}, ()),
        # what an answer must not contain
        ("^(?!.*sorry).*$", "yes", {"kind": "regex"}, ()),
        (r"(?i)^((?!\bnot\b).)*$", "yes", {"kind": "regex"}, ()),
        (r"^(?:(?!https?://).)*$", "yes", {"kind": "regex"}, ()),
        (r"^(?!.*\d{4})", "yes", {"kind": "regex"}, ()),
        (r"^(?!.*(.)\1)", "abc", {"kind": "regex"}, ()),
        (r"^\S*$", "yes", {"kind": "regex"}, ()),
        ("^.{0,50}$", "yes", {"kind": "regex"}, ()),
        ("^[^,]*$", "yes", {"kind": "regex"}, ()),
        ("^[^\u4e00-\u9fff]*$", "yes", {"kind": "regex"}, ()),
        ("[^x]*", "yes", {"kind": "regex", "full": True}, ()),
        (".{0,9}", "yes", {"kind": "regex", "full": True}, ()),
        ("(?:x+x+)*", "xx", {"kind": "regex", "full": True}, ()),
        ("a|b", "b", {"kind": "regex"}, ()),
        ("a|(?:(?:(?:x?){999}){999}){999}y", "a", {"kind": "regex"}, ()),  # would take minutes on other outputs
        (".+", "x", {"kind": "regex"}, ()),
        ("x*", "xx", {"kind": "regex", "full": True}, ()),
        ("", "", {"kind": "exact"}, ()),
        ("a\nb", "a b", {"kind": "exact", "squeeze": True}, ()),
        ("\na", "a\nb", {"kind": "exact", "first_line": True}, ("\n\n",)),
        ("yes.", "yes", {"kind": "exact", "strip": "."}, (".",)),
        ("a\nb", "a b", {"kind": "exact", "squeeze": True}, ("\n",)),
        ("a;b", "ab", {"kind": "exact", "replace": {";": ""}}, (";",)),
        ("Question", "question", {"kind": "exact", "lowercase": True}, ("Q",)),
        ("iphone", "iPhone", {"kind": "exact", "pattern": "(iPhone|iPad)", "lowercase": True}, ()),
        ("A", "Answer is A", {"kind": "exact", "pattern": "(?i:answer is ([a-d]))"}, ()),
        ("a  b", "is a b", {"kind": "exact", "pattern": r"is (\w \w)", "squeeze": True}, ()),
        ("7", "answer: 7!", {"kind": "exact", "pattern": r"answer: (\d+)"}, ()),
        ("b", "is (B)", {"kind": "exact", "pattern": r"is \(?([A-D])\)?", "lowercase": True}, ()),
        ("b", "b", {"kind": "exact", "pattern": "(?i)([A-D])"}, ()),
        ("x y", "#### x y #", {"kind": "exact", "pattern": "####([^#]*)"}, ()),
        ("a)", "[a)]", {"kind": "exact", "pattern": r"\[([a-z)]+)\]"}, ()),
        ("ab", "<ab>", {"kind": "exact", "pattern": r"<((?:a|b)+)>"}, ()),
        ("", "b", {"kind": "exact", "pattern": "b()"}, ()),
        ("5", "5,0", {"kind": "exact", "pattern": r"\d,?\d", "replace": {",0": ""}}, ()),
        ("", "", {"kind": "token_f1"}, ()),
    ],
)
def test_a_reference_that_an_output_matches_is_none(
    reference: str, output: str, keys: dict[str, Any], stop: tuple[str, ...]
) -> None:
    scorer = text_scorer(TypeAdapter(ScorerConfig).validate_python(keys))  # type: ignore[arg-type]
    assert scorer(output, reference) == 1.0
    assert problem_of(reference, stop, **keys) is None
