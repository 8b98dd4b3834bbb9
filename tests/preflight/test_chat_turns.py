"""What `plan` and `evolve` report about a task's turns and a model's chat template, before a model is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AddedToken

from cycleqd_merge.config.recipe import TaskConfig
from cycleqd_merge.evaluation.engines.answers import AnswerReader
from cycleqd_merge.merging.checks import Problems
from cycleqd_merge.preflight.prompts import check_prompts
from cycleqd_merge.tasks.generate import GenerateTask
from cycleqd_merge.tasks.os_interaction.task import OsInteractionTask
from cycleqd_merge.tasks.suite import SuiteTask
from tests import chat_templates as known
from tests.models import make_tokenizer
from tests.tasks.agentbench import ROWS, open_dbbench
from tests.tasks.scripted import defined, write_rows

PREFILLED = [{"role": "user", "content": "{{ q }}"}, {"role": "assistant", "content": "It is"}]
FEWSHOT = [
    {"role": "user", "content": "1?"},
    {"role": "assistant", "content": "1"},
    {"role": "user", "content": "{{ q }}"},
]
CHOICES = {"kind": "multiple_choice", "choices": ["1", "2"]}
MIDDLE = [FEWSHOT[0], {"role": "system", "content": "Be brief."}, FEWSHOT[2]]


def findings(
    folder: Path, template: Any, *, q: str = "What is 1?", limit: int | None = None, special: str = "", **keys: Any
) -> Problems:
    """The findings about a `generate` task named t, over one row."""
    write_rows(folder / "rows.jsonl", {"q": q, "answer": "1"})
    data = {"search": {"path": "rows.jsonl"}, "heldout": {"path": "rows.jsonl"}}
    prompt = {} if "messages" in keys else {"chat": True, "prompt": "{{ q }}"}
    scorer = {"scorer": {"kind": "exact"}}
    definition = defined(folder, {"kind": "generate", "data": data, **scorer, **prompt, **keys})
    tokenizer = make_tokenizer(template)
    if special:
        tokenizer.add_tokens([AddedToken(special, special=True)])
    use = TaskConfig(task=definition, name="t")
    return check_prompts(SuiteTask("t", use, definition, GenerateTask(definition)), tokenizer, limit)


@pytest.mark.parametrize(
    ("template", "keys", "error"),
    [
        (
            known.GEMMA,
            {"system": "s"},
            "task t: the chat template rejects these turns: System role not supported; put its text into the user's "
            "turn, or give the task a `chat_template` that writes system turns",
        ),
        (
            known.NO_SYSTEM,
            {"system": "What"},  # a text that the user's turn contains, too
            "task t: the chat template drops the system turn; put its text into the user's turn, or give the task a "
            "`chat_template` that writes system turns",
        ),
        (
            known.NO_ANSWERS,
            {"messages": PREFILLED},
            "task t: the chat template drops the assistant turn that the answer is to continue; remove that turn, or "
            "give the task a `chat_template` that writes it",
        ),
        (
            known.NO_ANSWERS,
            {"messages": FEWSHOT},
            "task t: the chat template drops the assistant turn; remove that turn, or give the task a `chat_template` "
            "that writes it",
        ),
        (
            "{% for m in messages[1:] %}{{ m.content }}{% endfor %}",
            {"messages": FEWSHOT},
            "task t: the chat template drops turn 1 (user); give the task a `chat_template` that writes it",
        ),
        (
            known.GEMMA,
            {"messages": FEWSHOT[1:]},
            "task t: the chat template rejects these turns: Conversation roles must alternate "
            "user/assistant/user/assistant/...; remove that turn, or give the task a `chat_template` that writes it",
        ),
        ("chatml", {}, "task t: the chat template drops the user turn; give the task a `chat_template` that writes it"),
        (known.LOOPS, {}, "task t: the chat template exceeded the limit of CPU time; give the task another"),
        (known.LARGE, {}, "task t: the chat template exceeded the limit of memory; give the task another"),
        ("{{ 1 // 0 }}", {}, "task t: the chat template fails: ZeroDivisionError"),
        ({"rag": known.CHATML, "tools": known.CHATML}, {}, "task t: the model has several chat templates (rag, tools)"),
        (known.CHATML.replace("m.content", "m.content[:20]"), {"q": "x" * 30}, "drops the text of the user turn in 2"),
        (
            known.CHATML.replace("m.content", "(m.content if '7' not in m.content else 1 // 0)"),
            {"q": "7"},
            "task t: the chat template fails: ZeroDivisionError",
        ),
    ],
)
def test_errors_of_templates_name_task_turn_and_remedy(
    tmp_path: Path, template: Any, keys: dict[str, Any], error: str
) -> None:
    found = findings(tmp_path, template, **keys)
    assert len(found.errors) == 1, found.errors
    assert error in found.errors[0]
    assert "\n" not in found.errors[0]


@pytest.mark.parametrize(
    ("template", "keys", "notices"),
    [
        *((template, {}, []) for template in (known.CHATML, known.LLAMA3, known.GEMMA, known.MISTRAL, known.PARTS)),
        *((template, {"messages": FEWSHOT}, []) for template in (known.CHATML, known.GEMMA3, known.MISTRAL)),
        *((template, {"messages": PREFILLED}, []) for template in (known.CHATML, known.GEMMA3, known.R1)),
        *((template, {"system": "s"}, []) for template in (known.CHATML, known.LLAMA3, known.PARTS, known.QWEN3)),
        *((template, {"system": "s"}, ["has no system turn"]) for template in (known.GEMMA3, known.MISTRAL)),
        (known.MISTRAL, {"system": "s", "messages": FEWSHOT}, ["it writes user, assistant, system, user"]),
        (known.CHATML, {"messages": MIDDLE}, []),
        (known.DATED, {}, ["writes today's date into prompts"]),
        (known.JSON, {"q": 'Say "1".\nNow.'}, ["changes the text of the user turn in 2 rows"]),
        (known.CHATML.replace("m.content", "m.content | replace('\\n', ' ')"), {"q": "1\n2"}, ["changes the text"]),
        (known.R1, {}, ["makes the model think before it answers"]),
        (known.R1, {"thinking": "strip"}, []),
        (
            known.R1,
            {"scorer": CHOICES},
            ["choices are scored as the beginning of its thought; `off` or a `chat_templat"],
        ),
        (known.QWEN3, {"thinking": "off"}, []),
        (known.GRANITE, {"thinking": "off"}, []),
    ],
)
def test_notices_tell_what_a_template_does_to_turns(
    tmp_path: Path, template: str, keys: dict[str, Any], notices: list[str]
) -> None:
    found = findings(tmp_path, template, **keys)
    assert found.errors == []
    assert len(found.notices) == len(notices), found.notices
    assert all(part in notice for part, notice in zip(notices, found.notices, strict=True))


@pytest.mark.parametrize(
    ("template", "keys", "error"),
    [
        (known.R1, {"thinking": "off"}, "has no switch (a variable enable_thinking or thinking); use `strip`"),
        (known.CHATML, {"thinking": "off"}, "has no switch"),
        (known.R1, {"thinking": "off", "scorer": CHOICES}, "enable_thinking or thinking); use a `chat_template` that"),
        (known.R1, {"thinking": "strip", "special": "</think>"}, "answers do not contain </think>, a special token"),
        (known.CHATML, {"thinking": "strip", "special": "<|END_THINKING|>"}, "answers do not contain <|END_THINKING|>"),
        (known.CHATML, {"thinking": "strip", "special": "[/THINK]"}, "answers do not contain [/THINK]"),
    ],
)
def test_thoughts_that_cannot_be_turned_off_or_recognised_are_errors(
    tmp_path: Path, template: str, keys: dict[str, Any], error: str
) -> None:
    (found,) = findings(tmp_path, template, **keys).errors
    assert found.startswith("task t: thinking: ")
    assert error in found


def conversation(folder: Path, limit: int | None, template: str = known.CHATML, **keys: Any) -> Problems:
    """The findings about an `os_interaction` task named t; its first prompt has 50 characters of text."""
    write_rows(folder / "rows.jsonl", {"description": "x" * 50, "match": {"answer": "1"}})
    data = {"search": {"path": "rows.jsonl"}, "heldout": {"path": "rows.jsonl"}}
    stated = {"kind": "os_interaction", "data": data, "chat": True, "prompt": "{{ description }}", **keys}
    definition = defined(folder, stated)
    use = TaskConfig(task=definition, name="t")
    return check_prompts(
        SuiteTask("t", use, definition, OsInteractionTask(definition)), make_tokenizer(template), limit
    )


def test_plan_tells_how_many_turns_of_a_conversation_surely_fit(tmp_path: Path) -> None:
    keys = {"rounds": 3, "max_new_tokens": 10, "output_longest": 100, "output_kept": 50}
    # one token per character: the marks around a turn, the longest reply, and both turns of a round
    first = len("<|im_start|>user\n" + "x" * 50 + "<|im_end|>\n<|im_start|>assistant\n")
    reply = len("The output of the OS:\n\n") + 100
    marks = len("<|im_end|>\n<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n")
    whole = first + 10 + 2 * (10 + reply + marks)
    for limit, fitting in ((whole, 3), (whole - 1, 2), (first + 10, 1), (None, 3)):
        found = conversation(tmp_path, limit, **keys)
        assert found.errors == []
        assert len(found.notices) == (fitting < 3)
        for notice in found.notices:
            assert f"can outgrow the model's {limit} tokens, and then end there: up to 3 turns" in notice
            assert f"of which {fitting} surely fit after the longest first prompt ({first} tokens" in notice
            assert notice.endswith(
                "lower `max_new_tokens`, `rounds` or `output_longest`, or use a model with a longer context"
            )
    (error,) = conversation(tmp_path, first + 9, **keys).errors
    assert error.startswith(f"task t: 2 of 2 rows do not fit the model's {first + 9} tokens")


def test_the_template_is_checked_with_the_turns_of_later_rounds(tmp_path: Path) -> None:
    template = "{% if messages | length > 2 %}{{ raise_exception('one turn only') }}{% endif %}" + known.CHATML
    (error,) = conversation(tmp_path, None, template).errors
    assert error.startswith("task t: in later turns, the chat template rejects these turns: one turn only; ")
    (error,) = conversation(tmp_path, None, known.NO_ANSWERS + "assistant: ").errors
    assert error.startswith("task t: in later turns, the chat template drops the assistant turn; ")


def test_a_database_conversation_has_one_turn_more_than_rounds(tmp_path: Path) -> None:
    assert open_dbbench(tmp_path, *ROWS, rounds=2).later_turns.answers == 3


def test_a_choice_fits_only_if_no_token_of_its_prompt_is_cut_off(tmp_path: Path) -> None:
    """Engines keep the last tokens for which the context has room, and generate one more."""
    choices = {"kind": "multiple_choice", "choices": ["1", "22"]}
    for limit, count in ((13, 0), (12, 1)):  # ten characters, and two of the choice
        found = findings(tmp_path, None, q="x" * 10, limit=limit, scorer=choices, chat=False)
        assert len(found.errors) == count
        tokens = list(range(12))
        assert (AnswerReader(make_tokenizer(None), [], limit).fitting_pair(tokens, 2) == tokens) == (not count)
