"""Chat turns as text: transformers' own, except where it would drop a text; bounded in time and memory."""

from __future__ import annotations

import time
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from cycleqd_merge.errors import TaskError
from cycleqd_merge.merging.chat_templates import TemplateLimit, render, template_variables
from tests import chat_templates as known
from tests.models import make_tokenizer

USER = {"role": "user", "content": " What is it?\n"}
SYSTEM = {"role": "system", "content": "Be brief."}
ANSWER = {"role": "assistant", "content": "A thing."}
BEGUN = ["It is", "It is\n", "```python\n", "x  ", "", " ", "\n\n", "<think>\n", "ünïcode ✓\n"]
TEMPLATES = {
    name: value for name, value in vars(known).items() if name.isupper() and name not in ("LOOPS", "LARGE", "MACRO")
}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def tokenizer(template: Any = None) -> PreTrainedTokenizerFast:
    made = make_tokenizer()
    made.chat_template = template
    return made


def applied(template: str, turns: list[dict[str, str]], **variables: Any) -> str:
    """The prompt as transformers writes it, in this process."""
    continued = turns[-1]["role"] == "assistant"
    return str(
        tokenizer(template).apply_chat_template(
            turns,
            tokenize=False,
            add_generation_prompt=not continued,
            continue_final_message=continued,
            **variables,
        )
    )


@pytest.mark.parametrize("turns", [[USER], [SYSTEM, USER], [USER, ANSWER, USER], [SYSTEM, USER, ANSWER, USER]])
@pytest.mark.parametrize("name", sorted(TEMPLATES.keys() - {"PARTS", "STRICT_PARTS"}))
def test_prompts_are_those_of_transformers(name: str, turns: list[dict[str, str]]) -> None:
    template = TEMPLATES[name]
    try:
        expected = applied(template, turns)
    except Exception as error:
        with pytest.raises(TaskError, match=str(error)):
            render(tokenizer(template), turns)
    else:
        assert render(tokenizer(template), turns) == render(tokenizer(), turns, template) == expected


@pytest.mark.parametrize("begun", BEGUN)
@pytest.mark.parametrize("name", ["CHATML", "LLAMA3", "GEMMA", "MISTRAL", "QWEN3", "R1", "GRANITE", "PARTS", "DATED"])
def test_an_answer_continues_exactly_the_begun_text(name: str, begun: str) -> None:
    template = TEMPLATES[name]
    text = render(tokenizer(template), [USER, assistant(begun)])
    assert text.endswith(begun)
    # where transformers finds the place, the header before the text is the same
    if begun.strip() and name != "PARTS":
        assert text.removesuffix(begun) == applied(template, [USER, assistant(begun)]).rstrip().removesuffix(
            begun.rstrip()
        )


@pytest.mark.parametrize("template", [known.PARTS, known.STRICT_PARTS])
def test_templates_that_write_content_parts_alone_get_them(template: str) -> None:
    turns = [SYSTEM, USER, ANSWER, USER]
    parts = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in turns]
    assert render(tokenizer(template), turns) == render(tokenizer(template), parts)
    assert all(turn["content"].strip() in render(tokenizer(template), turns) for turn in turns)


@pytest.mark.parametrize("name", ["CHATML", "LLAMA3", "GEMMA", "QWEN3", "R1", "PRINTED"])
def test_templates_that_write_text_alone_get_text_parts_as_text(name: str) -> None:
    """Otherwise they fail, or write the list as Python prints it."""
    made = tokenizer({**TEMPLATES, "PRINTED": "{% for m in messages %}{{ m.content }}\n{% endfor %}"}[name])
    parts = [{"type": "text", "text": "What"}, {"type": "text", "text": "is it?"}]
    assert render(made, [{"role": "user", "content": parts}]) == render(
        made, [{"role": "user", "content": "What\nis it?"}]
    )


def test_variables_that_are_not_json_are_one_line() -> None:
    with pytest.raises(TaskError, match="the variables of a chat template must be JSON values: Object of type set"):
        render(tokenizer(known.CHATML), [USER], None, {"tools": {1}})


def test_images_reach_a_template_as_parts_without_their_content() -> None:
    content = [{"type": "image", "image": object()}, {"type": "text", "text": "What?"}]
    assert render(tokenizer(known.PARTS), [{"role": "user", "content": content}]) == "user: What?assistant:"


@pytest.mark.parametrize(
    ("template", "turns", "message"),
    [
        (known.GEMMA, [SYSTEM, USER], "rejects these turns: System role not supported"),
        (known.GEMMA, [USER, USER], "rejects these turns: Conversation roles must alternate"),
        (known.GEMMA, [ANSWER, USER], "rejects these turns: Conversation roles must alternate"),
        ("{{ messages[0].content.missing.part }}", [USER], "rejects these turns: 'str object' has no attribute"),
        ("{{ messages[5].content }}", [USER], "rejects these turns: list object has no element 5"),
        ("{{ messages[0].content + 1 }}", [USER], "fails: TypeError"),
        ("{{ 1 // 0 }}", [USER], "fails: ZeroDivisionError"),
        ("{{ 'x'.encode('no-such') }}", [USER], "fails: LookupError"),
        ("{{ {}['a']['b'] }}", [USER], "rejects these turns"),
        ("{{ ''.__class__.__mro__ }}", [USER], "rejects these turns: access to attribute '__class__'"),
        ("{% for m in messages %}", [USER], "rejects these turns: Unexpected end of template"),
        ("{{ messages[0].content | no_such_filter }}", [USER], "rejects these turns: No filter named"),
        ("{{ 'a'.join(messages) }}", [USER], "fails: TypeError"),
        ("{{ 2.0 ** 99999 }}", [USER], "fails: OverflowError"),
        (known.NO_ANSWERS, [USER, ANSWER], "drops the assistant turn that the answer is to continue"),
        ("no turns at all", [USER, ANSWER], "drops the assistant turn that the answer is to continue"),
        (known.CHATML.replace("m.content", "m.content[:3]"), [USER, ANSWER], "drops the assistant turn"),
        (known.CHATML.replace("m.content", "m.content | upper"), [USER, ANSWER], "drops|does not end with"),
        (None, [USER], "the model has no chat template"),
        ({"tools": "a", "rag": "b"}, [USER], r"several chat templates \(rag, tools\) and no default"),
    ],
)
def test_whatever_a_template_raises_is_one_line(template: Any, turns: list[dict[str, str]], message: str) -> None:
    with pytest.raises(TaskError, match=message) as raised:
        render(tokenizer(template), turns)
    assert "\n" not in str(raised.value)


def test_a_template_is_chosen_by_its_name_and_the_default_is_used_without_one() -> None:
    several = tokenizer({"default": known.CHATML, "short": known.LLAMA3})
    assert render(several, [USER]) == applied(known.CHATML, [USER])
    assert render(several, [USER], "short") == applied(known.LLAMA3, [USER])


@pytest.mark.parametrize(
    ("template", "limit"),
    [
        (known.LOOPS, "CPU time"),
        (known.LARGE, "memory"),
        (known.MACRO, "depth"),
        ("{{ 'x' | center(10**10) }}", "memory"),
        ("{{ '%0999999999d%0999999999d' % (1, 1) }}", "memory"),
        ("{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}", "memory"),
    ],
)
def test_templates_that_do_not_end_are_stopped(template: str, limit: str) -> None:
    start = time.process_time()
    with pytest.raises(TemplateLimit, match=f"the chat template exceeded the limit of {limit}"):
        render(tokenizer(template), [USER])
    assert time.process_time() - start < 1  # nothing runs in this process
    assert render(tokenizer(known.CHATML), [USER]) == applied(known.CHATML, [USER])


def test_variables_reach_the_template() -> None:
    off = render(tokenizer(known.QWEN3), [USER], None, {"enable_thinking": False})
    assert off == applied(known.QWEN3, [USER], enable_thinking=False)
    assert off.endswith("<think>\n\n</think>\n\n")
    assert template_variables(tokenizer(known.QWEN3)) >= {"enable_thinking", "messages"}
    assert template_variables(tokenizer("{% generation %}{{ a }}{%- endgeneration -%}")) == {"a"}
    assert template_variables(tokenizer("{% if")) == frozenset()


class OwnWay(PreTrainedTokenizerFast):
    """Renders chats without a template, as mistral-common's tokenizers do."""

    def apply_chat_template(self, conversation: Any, **options: Any) -> str:  # type: ignore[override]
        if conversation[0]["role"] == "system":
            raise KeyError("system")
        end = "" if options["continue_final_message"] else "[answer]"
        return "".join(f"[{turn['role']}]{turn['content']}" for turn in conversation) + end


def test_a_tokenizer_with_its_own_way_of_rendering_keeps_it() -> None:
    own = OwnWay(tokenizer_object=make_tokenizer()._tokenizer)
    assert render(own, [USER]) == "[user] What is it?\n[answer]"
    assert render(own, [USER, assistant("It \n")]).endswith("[assistant]It \n")
    with pytest.raises(TaskError, match="the tokenizer rejects these turns: 'system'"):
        render(own, [SYSTEM, USER])
