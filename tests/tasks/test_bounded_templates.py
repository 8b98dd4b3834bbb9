"""Task templates run within limits, and give the same texts as in this process."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from cycleqd_merge.errors import DataError, RecipeError
from cycleqd_merge.tasks.bounded_templates import Template
from cycleqd_merge.tasks.templates import compile_template, fill
from tests.tasks.scripted import open_task

ROW = {
    "q": "What? ✓",
    "a b": [1, 2.5, None, True],
    "nested": {"items": ["x"], "deep": {"n": 10**20}},
    "self": "s",
    "range": "a column with the name of a function",
    "day": date(2024, 2, 29),
    "at": datetime(2024, 2, 29, 12, 30, tzinfo=UTC),
    "took": timedelta(days=1, microseconds=3),
    "price": Decimal("1.50"),
    "raw": b"\x00\xff",
}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "plain text\n",
        "{{ q }}\n",
        "{{ row['a b'][1] }} {{ row['a b'] | length }} {{ self }} {{ range }}",
        "{{ nested.items[0] }} {{ nested.deep.n + 1 }} {% for key in nested %}{{ key }},{% endfor %}",
        "{{ day.year }} {{ day }} {{ at }} {{ at.strftime('%H:%M') }} {{ took }} {{ took.days }}",
        "{{ price }} {{ price * 2 }} {{ raw | length }}",
        "{{ row.keys() | list | length }}",
        "{% set x = q %}{{ x | upper }}{% if 'a' in nested.items %}no{% endif %}",
    ],
)
def test_texts_are_those_of_this_process(text: str) -> None:
    assert Template.parse(text).fill(ROW) == fill(compile_template(text), ROW, tuple(ROW))


@pytest.mark.parametrize(
    "text", ["{{ missing }}", "{{ q.missing }}", "{{ row['a b'][2] }}", "{{ q + 1 }}", "{{ raw }}"]
)
def test_errors_are_those_of_this_process(text: str) -> None:
    with pytest.raises(DataError) as here:
        fill(compile_template(text), ROW, tuple(ROW))
    with pytest.raises(DataError) as bounded:
        Template.parse(text).fill(ROW)
    assert str(bounded.value) == str(here.value)


LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("prompt", "limit"),
    [
        (LOOPS, "CPU time"),
        ("{% if '7' in q %}" + LOOPS + "{% endif %}{{ q }}", "CPU time"),  # for one row only
        ("{{ 'x' * 10**10 }}", "memory"),
        ("{{ q | center(10**10) }}", "memory"),
        ("{% set ns = namespace(x=q) %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}", "memory"),
        ("{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}", "output"),
    ],
)
def test_a_template_that_does_not_end_is_one_error_for_all_rows(tmp_path: Path, prompt: str, limit: str) -> None:
    start, used = time.monotonic(), time.process_time()
    with pytest.raises(RecipeError, match=f"prompt: the template exceeded the limit of {limit}") as raised:
        open_task(tmp_path, *({"q": f"{number}?", "answer": "1"} for number in range(9)), prompt=prompt)
    assert "\n" not in str(raised.value)
    assert time.process_time() - used < 2
    assert time.monotonic() - start < 60


def test_an_endless_constant_is_found_when_the_template_is_read() -> None:
    with pytest.raises(RecipeError, match="the template exceeded the limit of memory"):
        Template.parse("{{ 'x' * 10**11 }}").fill({})
    with pytest.raises(RecipeError, match="not a template"):
        Template.parse("{{ q")
