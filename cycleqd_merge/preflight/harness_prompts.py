"""Whether the prompts of tasks of lm-evaluation-harness fit a model: its chat template and its context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase

from cycleqd_merge.errors import TaskError, UserError
from cycleqd_merge.evaluation.engines.prompts import encode
from cycleqd_merge.merging.chat_templates import render
from cycleqd_merge.merging.checks import Problems
from cycleqd_merge.preflight.chat_turns import check_row
from cycleqd_merge.tasks.lm_eval import HarnessPrompt, LmEvalTask
from cycleqd_merge.tasks.protocol import Message

_DESCRIPTION = (
    "; lm-evaluation-harness writes a task's `description` as a system turn: change it with `overrides`, or give the "
    "task a `chat_template` that writes system turns"
)


@dataclass
class _Turns:
    """Renders chat prompts, and collects the turns whose texts the template drops or changes."""

    tokenizer: PreTrainedTokenizerBase
    changed: set[tuple[str, str]] = field(default_factory=set)

    def render(
        self, messages: Sequence[Message], template: str | None = None, variables: Mapping[str, Any] | None = None
    ) -> str:
        advice = _DESCRIPTION if messages[0]["role"] == "system" else ""
        try:
            text = render(self.tokenizer, messages, template, variables)
        except TaskError as error:
            raise TaskError(f"{error}{advice}") from error
        if (problem := check_row(messages, text)) is not None:
            role, what = problem
            if what == "drops":
                raise TaskError(f"the chat template drops the {role} turn{advice}")
            self.changed.add(problem)
        return text


def check_harness(where: str, task: LmEvalTask, tokenizer: PreTrainedTokenizerBase, limit: int | None) -> Problems:
    """Render and count the tokens of every prompt. where: the task, for messages; limit: the model's context."""
    found, turns = Problems(), _Turns(tokenizer)
    over: dict[str, list[HarnessPrompt]] = {"empty": [], "short": [], "cut": []}
    count = 0
    try:
        for count, prompt in enumerate(task.prompts(turns.render), 1):
            if limit is not None and (kind := _excess(prompt, tokenizer, limit)):
                over[kind].append(prompt)
    except UserError as error:
        found.errors.append(f"{where}: {error}")
        return found
    for role, _ in sorted(turns.changed):
        found.notices.append(f"{where}: the chat template changes the text of the {role} turn of some prompts")
    texts = {
        "empty": (found.errors, f"leave no room for an answer in the model's {limit} tokens; lower `num_fewshot`"),
        "short": (found.notices, f"leave less room than an answer may need in the model's {limit} tokens"),
        "cut": (
            found.notices,
            f"do not fit the model's {limit} tokens: their beginning is cut off, as by lm-evaluation-harness; lower "
            "`num_fewshot` to avoid this",
        ),
    }
    for kind, (reported, text) in texts.items():
        if over[kind]:
            reported.append(f"{where}: {len(over[kind])} of {count} prompts, such as row {over[kind][0].row}, {text}")
    return found


def _excess(prompt: HarnessPrompt, tokenizer: PreTrainedTokenizerBase, limit: int) -> str | None:
    """How a prompt exceeds the context: its answer would be `empty` or `short`, or its beginning is `cut` off."""
    following = prompt.continuation or ""
    if len((prompt.text + following).encode()) + prompt.answer < limit // 2:
        return None  # a token has at least one byte, except a few that tokenizers add
    length = len(encode(tokenizer, type(prompt.text)(prompt.text + following)))
    if prompt.continuation is not None:
        return "cut" if length >= limit else None
    return "empty" if length >= limit else "short" if length + prompt.answer > limit else None
