"""Thoughts of thinking models: what is an answer, where stop strings count, and what a conversation keeps."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance

from cycleqd_merge.config.recipe import TaskConfig
from cycleqd_merge.errors import CycleQDError
from cycleqd_merge.run.identity import task_identity
from cycleqd_merge.tasks.lm_eval import _answer
from cycleqd_merge.tasks.prompting import Prompt, with_answer
from cycleqd_merge.tasks.protocol import Completion, Message, Sampling
from cycleqd_merge.tasks.suite import SuiteTask
from cycleqd_merge.tasks.thinking import answer_of, opens_thought, without_thought
from tests.tasks.scripted import Scripted, defined, open_task, outcomes

SWITCH = {"enable_thinking": False, "thinking": False}


@pytest.mark.parametrize(
    ("text", "opened", "answer"),
    [
        ("7", False, "7"),
        ("", False, ""),
        ("<think>6 or 7?</think>7", False, "7"),
        ("<think>\n6 or 7?\n</think>\n\n7\n8", False, "7\n8"),
        ("6 or 7?\n</think>\n\n7", True, "7"),
        ("6 or 7?\n</think>\n\n7", False, "7"),
        ("<think>\n\n</think>\n\n7", True, "7"),
        ("<think>6 or", False, ""),
        ("6 or", True, ""),
        ("</think>", True, ""),
        ("<think>6</think>", False, ""),
        ("<think>6</think>7<think>8</think>9", False, "9"),
        ("<think>6</think>7 <think>8", False, "7"),
        ("7 <think>8", False, "7"),
        ("[THINK]6[/THINK]7", False, "7"),
        ("<seed:think>6</seed:think>7", False, "7"),
        ("<thought>\n6</thought>\n\n7", False, "7"),
        ("◁think▷6◁/think▷7", False, "7"),
        ("<|channel>thought\n6<channel|>7", False, "7"),
        ("<|channel|>analysis<|message|>6<|end|><|start|>assistant<|channel|>final<|message|>7", False, "7"),
        ("a < b and <b>think</b>", False, "a < b and <b>think</b>"),
    ],
)
def test_the_answer_follows_the_thought(text: str, opened: bool, answer: str) -> None:
    assert without_thought(text, opened) == answer


@pytest.mark.parametrize(
    ("prompt", "begun", "opened"),
    [
        ("user: x\nassistant: ", "", False),
        ("user: x\nassistant: <think>\n", "", True),
        ("assistant: <think>\n\n</think>\n\n", "", False),
        ("user: write <think> first\nassistant: ", "", False),
        ("assistant: <think>\nLet me", "<think>\nLet me", True),
        ("assistant: <think>a</think>b", "<think>a</think>b", False),
        ("assistant: [THINK]", "", True),
    ],
)
def test_a_prompt_may_open_the_thought(prompt: str, begun: str, opened: bool) -> None:
    assert opens_thought(prompt, begun) == opened


@pytest.mark.parametrize(
    ("text", "truncated", "expected"),
    [
        ("<think>a\n\nb</think>\n\n7\n8", True, Completion("7", 9, False)),
        ("<think>a\n\nb</think>\n\n7", False, Completion("7", 9, False)),
        ("<think>a\n\nb", True, Completion("", 9, True)),
        ("7", True, Completion("7", 9, True)),
    ],
)
def test_stop_strings_end_the_answer_and_not_the_thought(text: str, truncated: bool, expected: Completion) -> None:
    assert answer_of(Completion(text, 9, truncated), False, ("\n", "zz")) == expected


class Opening(Scripted):
    """A model whose template opens a thought, unless it is switched off."""

    async def chat(self, messages: Any, sampling: Sampling, *options: Any, **named: Any) -> Completion:
        self.requests.append(("chat", sampling, options, named))
        return Completion(self.answer(messages), 1, truncated=False)

    def render(self, messages: Any, template: str | None = None, variables: Any = None) -> str:
        return "user: x\nassistant: " + ("" if variables else "<think>\n")


@pytest.mark.parametrize(
    ("thinking", "text", "score"),
    [
        ("keep", "6 or 7?\n</think>7", 0.0),
        ("keep", "7", 1.0),
        ("strip", "6 or 7?\n</think>\n\n7\n8", 1.0),
        ("strip", "7", 0.0),  # a thought that never ends
        ("off", "7", 1.0),
        ("off", "<think>6</think>7", 1.0),
    ],
)
def test_scorers_see_the_answer_alone(tmp_path: Path, thinking: str, text: str, score: float) -> None:
    keys = {"chat": True, "stop": ["\n"], "thinking": thinking, "chat_template": "t"}
    model = Opening(lambda _: text)
    (outcome,) = outcomes(open_task(tmp_path, {"q": "?", "answer": "7"}, **keys), model)
    ((_, sampling, options, named),) = model.requests
    assert outcome.score == score
    assert sampling.stop == (() if thinking == "strip" else ("\n",))
    assert (options, named) == (("t",), {"variables": SWITCH} if thinking == "off" else {})


def test_a_plain_prompt_can_open_a_thought(tmp_path: Path) -> None:
    task = open_task(tmp_path, {"q": "?", "answer": "7"}, prompt="{{ q }}<think>\n", thinking="strip")
    assert [outcome.score for outcome in outcomes(task, Scripted(lambda _: "6</think>7"))] == [1.0]
    assert [outcome.score for outcome in outcomes(task, Scripted(lambda _: "7"))] == [0.0]


def test_choices_are_scored_with_thinking_turned_off(tmp_path: Path) -> None:
    scorer = {"kind": "multiple_choice", "choices": ["6", "7"]}
    for thinking, prompt in (("off", "user: x\nassistant: "), ("keep", [{"role": "user", "content": "?"}])):
        task = open_task(tmp_path, {"q": "?", "answer": "7"}, chat=True, scorer=scorer, thinking=thinking)
        model = Opening(likelihoods={"6": [-2.0], "7": [-1.0]})
        assert [outcome.score for outcome in outcomes(task, model)] == [1.0]
        assert [request[1] for request in model.requests] == [prompt, prompt]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"thinking": "off"}, "requires a chat prompt"),
        (
            {"thinking": "strip", "chat": True, "scorer": {"kind": "multiple_choice", "choices": ["1"]}},
            "`strip` has no effect on `multiple_choice`",
        ),
        ({"thinking": "no"}, "'keep', 'strip' or 'off'"),
    ],
)
def test_settings_without_effect_are_refused(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, CycleQDError), match=message):
        open_task(tmp_path, {"q": "?", "answer": "1"}, **keys)


def test_conversations_keep_answers_without_thoughts(tmp_path: Path) -> None:
    stated = {
        "kind": "os_interaction",
        "data": {"rows": {"path": "rows.jsonl"}},
        "chat": True,
        "prompt": "x",
        "thinking": "strip",
    }
    prompt = Prompt(defined(tmp_path, stated))
    messages: list[Message] = [{"role": "user", "content": "x"}]
    model = Opening(lambda _: "Act: finish?</think>\n\nAct: bash")
    completion = asyncio.run(prompt.ask(model, messages, Sampling()))
    assert with_answer(messages, completion.text)[-1] == {"role": "assistant", "content": "Act: bash"}


@pytest.mark.parametrize(
    ("thinking", "text", "answer"),
    [
        ("keep", "6\n</think>\n\n7\n8", "6\n</think>\n\n7\n8"),
        ("strip", "6\n</think>\n\n7\n8", "7"),
        ("strip", "6", ""),
    ],
)
def test_the_harness_sees_the_answer_alone(thinking: Any, text: str, answer: str) -> None:
    model = Scripted(lambda _: text)
    prompt = ("user: x\nassistant: <think>\n", {"until": ["\n"]})
    request = Instance(request_type="generate_until", doc={}, arguments=prompt, idx=0)
    asyncio.run(_answer(request, model, thinking))
    assert request.resps == [answer]
    assert model.requests[0][2].stop == (() if thinking == "strip" else ("\n",))


def test_an_answer_joins_the_turn_that_it_continues() -> None:
    begun: list[Message] = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "Think:"}]
    assert with_answer(begun, " so") == [begun[0], {"role": "assistant", "content": "Think: so"}]
    assert with_answer(begun[:1], "so") == [begun[0], {"role": "assistant", "content": "so"}]


def test_the_default_leaves_a_runs_identity_as_it_was(tmp_path: Path) -> None:
    for thinking, stated in (("keep", False), ("strip", True)):
        task = open_task(tmp_path, {"q": "?", "answer": "7"}, thinking=thinking)
        definition = task._definition
        identity = task_identity(SuiteTask("t", TaskConfig(task=definition, name="t"), definition, task))
        assert ("thinking" in identity["definition"]) == stated
