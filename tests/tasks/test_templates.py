"""Templates over rows: what a column's name may be, and what a value may be."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cycleqd_merge.errors import DataError, RecipeError
from cycleqd_merge.tasks.prompting import parse_template, render_template

NESTED = {"items": "i", "keys": "k", "values": "v", "copy": "c", "get": "g", "pop": "p", "update": "u"}


def filled(template: str, row: dict[str, Any], field: str = "prompt") -> str:
    return render_template(parse_template(template, field), row, field)


@pytest.mark.parametrize("name", NESTED)
def test_a_column_may_have_the_name_of_a_method(name: str) -> None:
    assert filled(f"{{{{ q.{name} }}}}", {"q": NESTED}) == NESTED[name]
    assert filled(f"{{{{ {name} }}}}", NESTED) == NESTED[name]
    assert filled(f"{{{{ row.{name} }}}}", NESTED) == NESTED[name]


@pytest.mark.parametrize(
    ("template", "row", "text"),
    [
        ("{% for k, v in q.items() %}{{ k }}{{ v }} {% endfor %}", {"q": {"a": 1, "items": 2}}, "a1 items2 "),
        ("{{ q.values() | list | length }}{{ q.get('get') }}{{ q.get('x', 3) }}", {"q": {"get": 5}}, "153"),
        ("{{ q.a.copy.get }}", {"q": {"a": {"copy": {"get": 3}}}}, "3"),
        ("{% for each in q %}{{ loop.index }}{{ each.keys }}{% endfor %}", {"q": [{"keys": "x"}]}, "1x"),
        ("{% macro f(x) %}{{ x.pop }}{% endmacro %}{{ f(q) }}", {"q": {"pop": 1}}, "1"),
        ("{{ q.upper() }}{{ q.title().lower() }}", {"q": "ab"}, "ABab"),
        (
            '{{ row["Correct Answer"] }}{{ row["a-b"] }}{{ row["not"] }}{{ row["1st"] }}',
            {"Correct Answer": 1, "a-b": 2, "not": 3, "1st": 4},
            "1234",
        ),
        (
            "{{ range }}{{ dict }}{{ loop }}{{ self }}{{ cycler }}",
            {"range": 1, "dict": 2, "loop": 3, "self": 4, "cycler": 5},
            "12345",
        ),
        ("{{ self.x }}", {"self": {"x": 1}}, "1"),
        ("{{ row }}", {"row": "a column of that name"}, "a column of that name"),
        ("{{ Größe }} {{ 答え }}", {"Größe": 1, "答え": 2}, "1 2"),
        ("{{ q or '' }}|{{ q | default('none', true) }}", {"q": None}, "|none"),
        ("{% if q is none %}a{% endif %}{% if q == none %}b{% endif %}{% if not q %}c{% endif %}", {"q": None}, "abc"),
        ("{{ q }}", {"q": [None, {"x": None}]}, "[None, {'x': None}]"),
        ("{{ c[q] }}{{ c[-1] }}{{ c[q - 1] }}{{ row['c'][0] }}", {"c": ["x", "y"], "q": 1}, "yyxx"),
        ("{{ {-1: 'none', 0: 'no'}[q] }}", {"q": -1}, "none"),
        ("{{ c[q] }}{{ c[1:] }}{{ 'abc'[q] }}", {"c": [1, 2], "q": 0}, "1[2]a"),
        (
            "{{ q | int }} {{ r | int }} {{ s | int(7) }} {{ s | int(default=8) }}",
            {"q": "3", "r": "4.0", "s": ""},
            "3 4 7 8",
        ),
        ("{{ q | float }} {{ r | float(0.5) }} {{ s | int }}", {"q": "1", "r": None, "s": True}, "1.0 0.5 1"),
        ("{{ 'ff' | int(base=16) }}{{ ' 1 ' | int }}", {}, "2551"),
        ("{{ row | tojson }}", {"q": None, "r": [None, 1]}, json.dumps({"q": None, "r": [None, 1]})),
        ("{{ q }} {{ r }} {{ s }} {{ t }}", {"q": True, "r": 1.0, "s": 3, "t": 1e20}, "True 1.0 3 1e+20"),
        ("{{ q }} {{ q | string }}", {"q": ["a", 1]}, "['a', 1] ['a', 1]"),
    ],
)
def test_values_are_rendered(template: str, row: dict[str, Any], text: str) -> None:
    assert filled(template, row) == text


NULL = """column 'q' is null; give it a value, or write `{{ q or "" }}` for an empty text"""


@pytest.mark.parametrize(
    ("template", "row", "problem"),
    [
        ("{{ q }}", {"q": None}, NULL),
        ("{{ q | trim }}", {"q": None}, NULL),
        ("{{ 'Q: ' ~ q }}", {"q": None}, NULL),
        ("{{ '%s' | format(q) }}", {"q": None}, NULL),
        ("{{ q | join(', ') }}", {"q": ["a", None]}, "column 'q[1]' is null; "),
        ("{{ q.x }}", {"q": {"x": None}}, "column 'q.x' is null; "),
        ('{{ row["a b"] }}', {"a b": None}, NULL.replace("{{ q", '{{ row["a b"]').replace("'q'", "'a b'")),
        ("{{ q.x }}", {"q": None}, "a null has no attribute 'x'; the row has the columns q"),
        ("{{ q | int }}", {"q": None}, NULL),
        ("{{ none }}", {}, "a value is null"),
        ("{{ c[q | int] }}", {"c": ["x", "y"], "q": ""}, "'' is not a number; correct the row, or write what to use"),
        (
            "{{ q | float }}",
            {"q": "n/a"},
            "'n/a' is not a number; correct the row, or write what to use instead, such as",
        ),
        ("{{ q | int }}", {"q": float("inf")}, "cannot be rendered: cannot convert float infinity"),
        ("{{ q | int }}", {"q": [1]}, "[1] is not a number"),
        (
            "{{ c[q] }}",
            {"c": ["x", "y"], "q": -1},
            "-1 is not a position in ['x', 'y']; leave out rows without a label",
        ),
        ("{{ ['no', 'yes'][q.label] }}", {"q": {"label": -1}}, "-1 is not a position in ['no', 'yes']"),
        ("{{ c[q - 1] }}", {"c": ["x", "y"], "q": 0}, "-1 is not a position in ['x', 'y']"),
        ("{{ q }}", {"q": float("nan")}, "a value is nan, which is not a number"),
        ("{{ q }}", {"q": float("inf")}, "a value is inf, which is not a number"),
        ("{{ q }}", {"q": b"\x89PNG"}, "a value is binary data, not text"),
        ("{{ q.items }}", {"q": {"a": 1}}, "a value is a function of Jinja or Python (items); does the row lack"),
        ("{{ q.title }}", {"q": "a"}, "a value is a function of Jinja or Python (title)"),
        ("{{ range }}", {"q": "a"}, "a value is a function of Jinja or Python (safe_range)"),
        ("{{ Correct-Answer }}", {"Correct-Answer": 1}, "'Correct' is undefined; write row['Correct-Answer'];"),
        ("{{ Options (A) }}", {"Options (A)": 1}, "'Options' is undefined; write row['Options (A)']; the row has"),
        ("{{ answer }}", {" answer": 1}, "'answer' is undefined; write row[' answer'];"),
        ("{{ self }}", {"q": 1}, "'dict object' has no attribute 'self'; the row has the columns q"),
    ],
)
def test_a_value_without_a_text_is_refused(template: str, row: dict[str, Any], problem: str) -> None:
    with pytest.raises(DataError) as raised:
        filled(template, row)
    assert str(raised.value).startswith(f"prompt: {problem}")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["Correct Answer", "not", "1st", "question?", "in stock"])
def test_a_column_that_is_no_word_says_how_it_is_written(name: str) -> None:
    with pytest.raises(RecipeError) as raised:
        parse_template(f"Q: {{{{ q }}}}\nA: {{{{ {name} }}}}", "prompt")
    assert str(raised.value).startswith("prompt: not a template: ")
    assert str(raised.value).endswith(f'; the column `{name}` is written {{{{ row["{name}"] }}}}')
    assert filled(f'{{{{ row["{name}"] }}}}', {name: "x"}) == "x"


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (["Paris", "paris"], "['Paris', 'paris'] is a list; write which of its values is the answer"),
        ([], "[] is a list; "),
        ({"text": ["a"]}, "{'text': ['a']} is an object; "),
    ],
)
def test_a_reference_is_one_text(value: Any, problem: str) -> None:
    with pytest.raises(DataError) as raised:
        filled("{{ answer }}", {"answer": value}, "answer")
    assert str(raised.value).startswith(f"answer: {problem}")
    assert filled("{{ answer | string }}", {"answer": value}, "answer") == str(value)
