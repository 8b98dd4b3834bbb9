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
    try:
        excesses = [(prompt.row, _excess(prompt, tokenizer, limit)) for prompt in task.prompts(turns.render)]
    except UserError as error:
        found.errors.append(f"{where}: {error}")
        return found
    for role, _ in sorted(turns.changed):
        found.notices.append(f"{where}: the chat template changes the text of the {role} turn of some prompts")
    for kind, text in _EXCESSES.items():
        rows = [row for row, excess in excesses if excess == kind]
        if rows:
            line = f"{where}: {len(rows)} of {len(excesses)} prompts, such as row {rows[0]}, {text.format(limit)}"
            (found.errors if kind == "empty" else found.notices).append(line)
    return found


_EXCESSES = {
    "empty": "leave no room for an answer in the model's {} tokens; lower `num_fewshot`",
    "short": "leave less room than an answer may need in the model's {} tokens",
    "cut": "do not fit the model's {} tokens: their beginning is cut off, as by lm-evaluation-harness; lower "
    "`num_fewshot` to avoid this",
}
"""How a prompt can exceed the context, for messages."""


def _excess(prompt: HarnessPrompt, tokenizer: PreTrainedTokenizerBase, limit: int | None) -> str | None:
    """The key of `_EXCESSES` for a prompt: its answer would be empty or short, or its beginning is cut off."""
    whole = prompt.text + (prompt.continuation or "")
    if limit is None or len(whole.encode("utf-8", "replace")) + prompt.answer < limit // 2:
        return None  # a token has about a byte at least: most prompts need not be encoded
    length = len(encode(tokenizer, type(prompt.text)(whole)))
    if prompt.continuation is not None:
        return "cut" if length >= limit else None
    return "empty" if length >= limit else "short" if length + prompt.answer > limit else None
