"""Task kind `generate`: its requests, how answers are graded, and errors reported before a model is used."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from cycleqd_merge.errors import DataError, RecipeError, UserError
from cycleqd_merge.tasks.generate import GenerateTask
from cycleqd_merge.tasks.protocol import Outcome, Sampling
from tests.tasks.scripted import Scripted, defined, open_task, outcomes, write_rows


def requests_of(task_folder: Path, *rows: dict[str, Any], **keys: Any) -> list[tuple[Any, ...]]:
    """The requests that a task makes for its search samples."""
    model = Scripted()
    outcomes(open_task(task_folder, *rows, **keys), model)
    return model.requests


def refusal(folder: Path, *rows: dict[str, Any], **keys: Any) -> str:
    """The error when the task is opened, without the row and its place."""
    with pytest.raises(UserError) as raised:
        open_task(folder, *rows, **keys)
    message = str(raised.value).partition("; the row is ")[0]
    return re.sub(rf"^{re.escape(str(folder))}/rows\.jsonl:\d+: ", "", message)


def test_a_plain_prompt_is_completed(tmp_path: Path) -> None:
    requests = requests_of(
        tmp_path,
        {"q": "1+1", "answer": "2"},
        prompt="{{ q }} =\n",
        max_new_tokens=5,
        stop=["\n", ";"],
        temperature=0.5,
    )
    assert requests == [("complete", "1+1 =\n", Sampling(5, 0.5, ("\n", ";")))]


def test_a_prompt_becomes_one_user_turn_of_a_chat(tmp_path: Path) -> None:
    requests = requests_of(tmp_path, {"q": "1+1", "answer": "2"}, chat=True, system="Be {{ brief }}.")
    turns = [{"role": "system", "content": "Be {{ brief }}."}, {"role": "user", "content": "1+1"}]
    assert requests == [("chat", turns, Sampling(), None)]


def test_messages_become_turns_and_bring_their_own_template(tmp_path: Path) -> None:
    messages = [
        {"role": "user", "content": "{{ q }}?"},
        {"role": "assistant", "content": "Why {{ q }}?"},
        {"role": "user", "content": "So."},
    ]
    requests = requests_of(
        tmp_path, {"q": "1+1", "answer": "2"}, messages=messages, chat_template="{{ messages[0].role }}"
    )
    turns = [{**turn, "content": turn["content"].replace("{{ q }}", "1+1")} for turn in messages]
    assert requests == [("chat", turns, Sampling(), "{{ messages[0].role }}")]


def test_an_answer_is_scored_against_the_rendered_reference(tmp_path: Path) -> None:
    rows = [{"q": "red", "first": "r", "last": "d"}, {"q": "blue", "first": "b", "last": "e"}]
    task = open_task(tmp_path, *rows, answer="{{ first }}-{{ last }}")
    assert outcomes(task, Scripted(lambda prompt: "r-d")) == [
        Outcome(1.0, "r-d", truncated=True),
        Outcome(0.0, "r-d", truncated=True),
    ]


def test_white_space_of_prompts_is_kept(tmp_path: Path) -> None:
    ((_, prompt, _),) = requests_of(tmp_path, {"q": "<b> & 'c'", "answer": ""}, prompt="\n {{ q }}\n\n")
    assert prompt == "\n <b> & 'c'\n\n"


def test_templates_are_jinja(tmp_path: Path) -> None:
    prompt = "{% for option in options %}{{ loop.index }}) {{ option | upper }} {% endfor %}"
    ((_, text, _),) = requests_of(tmp_path, {"options": ["a", "b"], "answer": "a"}, prompt=prompt)
    assert text == "1) A 2) B "


@pytest.mark.parametrize(
    "keys", [{"prompt": "{{ question }}"}, {"messages": [{"role": "user", "content": "{{ question }}"}]}]
)
def test_a_missing_column_is_reported_with_the_existing_ones(tmp_path: Path, keys: dict[str, Any]) -> None:
    assert refusal(tmp_path, {"q": "1", "answer": "2"}, **keys) == (
        f"{next(iter(keys))}: 'question' is undefined; the row has the columns q, answer"
    )


def test_a_column_missing_from_a_later_row_is_reported_too(tmp_path: Path) -> None:
    assert refusal(tmp_path, {"q": "1", "answer": "2"}, {"q": "3", "anser": "4"}) == (
        "answer: 'answer' is undefined; the row has the columns q, anser"
    )


def test_the_first_bad_row_is_shown_and_the_others_are_counted(tmp_path: Path) -> None:
    rows = [{"q": "1", "answer": "2"}, {"q": "3"}, {"q": "4"}]
    with pytest.raises(DataError) as raised:
        open_task(tmp_path, *rows)
    assert str(raised.value) == (
        f"{tmp_path}/rows.jsonl:2: answer: 'answer' is undefined; the row has the columns q; the row is {{'q': '3'}} "
        "(and 3 more)"  # both splits have the same rows
    )


@pytest.mark.parametrize(
    ("prompt", "problem"),
    [
        ("{{ q", "prompt: not a template: unexpected end of template, expected 'end of print statement'."),
        ("{% if q %}", "prompt: not a template: Unexpected end of template"),
        ("{{ q | round }}", "prompt: cannot be rendered: "),
        ("{{ 1 / 0 }}", "prompt: cannot be rendered: division by zero"),
        ("{{ q.x.y }}", "prompt: 'str object' has no attribute 'x'"),
    ],
)
def test_a_template_that_fails_is_reported(tmp_path: Path, prompt: str, problem: str) -> None:
    assert refusal(tmp_path, {"q": "1", "answer": "2"}, prompt=prompt).startswith(problem)


@pytest.mark.parametrize(("prompt", "error"), [("{{ q", RecipeError), ("{{ other }}", DataError)])
def test_errors_of_templates_and_of_rows_are_distinguished(tmp_path: Path, prompt: str, error: type[UserError]) -> None:
    with pytest.raises(error):
        open_task(tmp_path, {"q": "1", "answer": "2"}, prompt=prompt)


@pytest.mark.parametrize(
    "expression",
    [
        "q.__class__.__mro__",
        "q['__class__']",
        "().__class__.__base__.__subclasses__()",
        "q | attr('__class__')",
        "cycler.__init__.__globals__",
        "'{0.__class__}'.format(q)",
        "self.__init__.__globals__",
    ],
)
def test_templates_cannot_reach_into_python(tmp_path: Path, expression: str) -> None:
    message = refusal(tmp_path, {"q": "1", "answer": "2"}, prompt="{{ " + expression + " }}")
    assert message.startswith("prompt: ")
    assert "class 'str'" not in message


def test_values_of_rows_are_not_templates(tmp_path: Path) -> None:
    ((_, prompt, _),) = requests_of(tmp_path, {"q": "{{ answer }}{% raise %}", "answer": "2"})
    assert prompt == "{{ answer }}{% raise %}"


def test_a_reference_that_is_not_a_regular_expression_is_reported(tmp_path: Path) -> None:
    assert refusal(tmp_path, {"q": "1", "answer": "(2"}, scorer={"kind": "regex"}) == (
        "answer: '(2' is not a regular expression: missing ), unterminated subpattern at position 0"
    )


LIKELIHOODS = {"yes": [-1.0, -1.0], "no": [-1.5], "absolutely": [-0.7, -0.7, -0.7]}


@pytest.mark.parametrize(
    ("normalise", "chosen"),
    # sums -2, -1.5, -2.1; per token -1, -1.5, -0.7; per character -0.667, -0.75, -0.21
    [("none", "no"), ("tokens", "absolutely"), ("characters", "absolutely")],
)
def test_the_likeliest_choice_is_the_answer(tmp_path: Path, normalise: str, chosen: str) -> None:
    scorer = {"kind": "multiple_choice", "choices": list(LIKELIHOODS), "normalise": normalise}
    rows = [{"q": "?", "answer": answer} for answer in LIKELIHOODS]
    found = outcomes(open_task(tmp_path, *rows, scorer=scorer), Scripted(likelihoods=LIKELIHOODS))
    assert found == [Outcome(float(answer == chosen), chosen) for answer in LIKELIHOODS]


def test_outer_white_space_does_not_distinguish_choices(tmp_path: Path) -> None:
    task = open_task(
        tmp_path, {"q": "?", "answer": "no"}, scorer={"kind": "multiple_choice", "choices": [" yes", " no"]}
    )
    assert outcomes(task, Scripted(likelihoods={" yes": [-2.0], " no": [-1.0]})) == [Outcome(1.0, " no")]


def test_choices_can_come_from_a_column(tmp_path: Path) -> None:
    rows = [{"q": "a", "options": ["yes", "no"], "answer": " no"}, {"q": "b", "options": ["yes"], "answer": "yes"}]
    model = Scripted(likelihoods=LIKELIHOODS)
    task = open_task(tmp_path, *rows, scorer={"kind": "multiple_choice", "choices": "options"})
    assert outcomes(task, model) == [Outcome(1.0, "no"), Outcome(1.0, "yes")]
    assert [request[1:3] for request in model.requests] == [("a", "yes"), ("a", "no"), ("b", "yes")]


def test_choices_follow_a_chat_through_its_template(tmp_path: Path) -> None:
    model = Scripted(likelihoods=LIKELIHOODS)
    scorer = {"kind": "multiple_choice", "choices": ["yes", "no"]}
    outcomes(open_task(tmp_path, {"q": "a", "answer": "no"}, chat=True, chat_template="x", scorer=scorer), model)
    turns = [{"role": "user", "content": "a"}]
    assert model.requests == [("logprobs", turns, "yes", "x"), ("logprobs", turns, "no", "x")]


@pytest.mark.parametrize(
    ("row", "choices", "problem"),
    [
        ({"answer": "maybe"}, ["yes", "no"], "answer: 'maybe' is not among the choices 'yes', 'no'"),
        ({"answer": "yes"}, "options", "choices: no column 'options'; the row has the columns answer"),
        ({"answer": "y", "o": {"x": []}}, "o.text", "choices: no column 'o.text'; the row has the columns answer, o"),
        ({"answer": "y", "o": "yes"}, "o", "choices: column 'o' must contain a list of choices; found 'yes'"),
        ({"answer": "y", "o": None}, "o", "choices: column 'o' must contain a list of choices; found None"),
        ({"answer": "y", "o": []}, "o", "choices: column 'o' must contain a list of choices; found []"),
        (
            {"answer": "A", "o": {"text": ["x", "y"], "label": ["A", "B"]}},  # ARC
            "o",
            "choices: column 'o' must contain a list of choices; found {'text': ['x', 'y'], 'label': ['A', 'B']}; "
            "write `choices: o.text`",
        ),
        ({"answer": "x", "o": ["x", None]}, "o", "choices: choice 2 of 2 is null; every choice must be a text"),
        ({"answer": "x", "o": ["", "x"]}, "o", "choices: choice 1 of 2 is ''; every choice must be a text"),
        ({"answer": "x"}, ["x", " "], "choices: choice 2 of 2 is ' '; every choice must be a text"),
        (
            {"answer": "x", "o": [{"label": "A", "text": "x"}]},
            "o",
            "choices: choice 1 of 1 is {'label': 'A', 'text': 'x'}; every choice must be a text",
        ),
        (
            {"answer": 1, "o": ["x", "y"]},
            "o",
            "answer: '1' is not among the choices 'x', 'y'; if it is a choice's number, counted from 0, write "
            "`answer: '{{ o[answer | int] }}'`",
        ),
        (
            {"answer": "B", "o": ["x", "y"]},
            "o",
            "answer: 'B' is not among the choices 'x', 'y'; if it is a choice's letter, write "
            """`answer: '{{ o["AB".index(answer)] }}'`""",
        ),
        (
            {"answer": "b", "o": ["x", "y"]},
            "o",
            "answer: 'b' is not among the choices 'x', 'y'; if it is a choice's letter, write "
            """`answer: '{{ o["ab".index(answer)] }}'`""",
        ),
        (
            {"answer": "x", "o": "['x', 'y']"},
            "o",
            """choices: column 'o' must contain a list of choices; found "['x', 'y']", which is text; write the rows """
            "as JSONL or Parquet, which have lists",
        ),
        (
            {"answer": "x", "o": {"A": "x", "B": None}},
            "o",
            "choices: choice 2 of 2 is null; every choice must be a text",
        ),
        ({"answer": None, "o": ["x"]}, "o", "answer: column 'answer' is null; give it a value, or write "),
        ({"answer": "", "o": ["x"]}, "o", "answer: '' is not among the choices 'x'"),
    ],
)
def test_choices_that_cannot_contain_the_answer_are_reported(
    tmp_path: Path, row: dict[str, Any], choices: str | list[str], problem: str
) -> None:
    scorer = {"kind": "multiple_choice", "choices": choices}
    found = refusal(tmp_path, row, prompt="?", scorer=scorer)
    assert found[: len(problem)] == problem
    assert found == problem or problem.endswith("write ")


@pytest.mark.parametrize(
    ("row", "choices", "answer"),
    [
        ({"answer": 1, "o": ["x", "y"]}, "o", "{{ o[answer | int] }}"),
        ({"answer": "B", "o": ["x", "y"]}, "o", '{{ o["AB".index(answer)] }}'),
        (
            {"answer": "B", "o": {"text": ["x", "y"], "label": ["A", "B"]}},
            "o.text",
            "{{ o.text[o.label.index(answer)] }}",
        ),
        (
            {"answer": "2", "o": {"text": ["x", "y"], "label": ["1", "2"]}},
            "o.text",
            "{{ o.text[o.label.index(answer)] }}",
        ),
        ({"answer": "y", "o.text": ["x", "y"]}, "o.text", "{{ answer }}"),
        ({"answer": "B", "o": {"A": "x", "B": "y"}}, "o", "{{ o[answer] }}"),  # as in MedQA
        ({"answer": True, "o": [False, True]}, "o", "{{ answer }}"),
        ({"answer": "y", "o": ["y", "y", "x"]}, "o", "{{ answer }}"),
    ],
)
def test_a_choice_can_be_named_by_its_number_or_letter(
    tmp_path: Path, row: dict[str, Any], choices: str, answer: str
) -> None:
    scorer = {"kind": "multiple_choice", "choices": choices}
    task = open_task(tmp_path, row, prompt="?", answer=answer, scorer=scorer)
    (sample,) = task.samples("search")
    right = task.reference_of(sample)
    assert right in ("y", "True")
    likelihoods = {choice: [-1.0 if choice == right else -2.0] for choice in task.choices_of(sample)}
    assert outcomes(task, Scripted(likelihoods=likelihoods)) == [Outcome(1.0, right)]


TURNS = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "{{ q }}"}]


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"chat": True},
        {"chat": True, "system": "Be brief."},
        {"prompt": "{{ q }}\n"},
        {"messages": TURNS},
        {"messages": [*TURNS, {"role": "assistant", "content": "A:"}]},
    ],
)
@pytest.mark.parametrize("text", ["", " \u00a0"])
def test_an_empty_prompt_is_reported(tmp_path: Path, keys: dict[str, Any], text: str) -> None:
    assert refusal(tmp_path, {"q": text, "answer": "x"}, **keys) == "prompt: empty; every row requires a prompt"


def test_turns_around_the_users_may_be_empty(tmp_path: Path) -> None:
    messages = [
        {"role": "system", "content": "{{ s or '' }}"},
        {"role": "user", "content": "{{ q }}"},
        {"role": "assistant", "content": ""},
    ]
    assert requests_of(tmp_path, {"q": "a", "s": None, "answer": "x"}, messages=messages)


def test_times_of_pandas_are_times(tmp_path: Path) -> None:
    times = pyarrow.array([1_704_164_645_123_456_789], pyarrow.timestamp("ns"))  # which pyarrow reads by pandas' type
    table = pyarrow.table({"q": ["a"], "answer": times})
    for split in ("search", "heldout"):
        pyarrow.parquet.write_table(table, tmp_path / f"{split}.parquet")
    data = {split: {"path": str(tmp_path / f"{split}.parquet")} for split in ("search", "heldout")}
    keys = {"kind": "generate", "data": data, "prompt": "{{ row['q'] }}", "scorer": {"kind": "exact"}}
    task = GenerateTask(defined(tmp_path, keys))
    assert task.reference_of(task.samples("search")[0]) == "2024-01-02 03:04:05.123456"


def test_the_same_choices_in_another_order_are_equal(tmp_path: Path) -> None:
    rows = [{"q": "a", "o": order, "answer": "x"} for order in (["x", "y"], ["y", "x"], ["x", "z"])]
    task = open_task(tmp_path, *rows, scorer={"kind": "multiple_choice", "choices": "o"})
    first, second, other = map(task.content_of, task.samples("search"))
    assert first == second != other


@pytest.mark.parametrize("other", [{"answer": "2", "id": 7}, {"answer": " 2\n", "q": "1 +\n 1"}])
def test_equal_prompts_and_answers_are_in_one_half_whatever_the_other_columns(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    rows = [{"q": f"{place} + {place}", "answer": str(2 * place)} for place in range(1, 7)]
    path = write_rows(tmp_path / "rows.jsonl", *rows, {**rows[0], **other})
    keys = {"kind": "generate", "prompt": "{{ q }}", "scorer": {"kind": "exact"}}
    for seed in range(8):
        task = GenerateTask(defined(tmp_path, {**keys, "data": {"rows": {"path": str(path)}, "seed": seed}}))
        sides = [{task.content_of(sample) for sample in task.samples(split)} for split in ("search", "heldout")]
        assert not sides[0] & sides[1]
        assert [len(task.samples(split)) for split in ("search", "heldout")] == [4, 3]
