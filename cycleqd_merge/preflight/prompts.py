"""Whether tasks and model fit together: chat template, token limits."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from cycleqd_merge.config.scorers import ExactScorerConfig, NumberScorerConfig, TokenF1ScorerConfig
from cycleqd_merge.config.tasks import GenerateTaskConfig, LmEvalTaskConfig, PromptedTaskConfig
from cycleqd_merge.errors import TaskError, UserError
from cycleqd_merge.evaluation.engines.prompts import encode, prompt_length
from cycleqd_merge.merging.chat_templates import has_template, render
from cycleqd_merge.merging.checks import Problems
from cycleqd_merge.preflight.chat_turns import (
    check_accepted,
    check_row,
    check_thinking,
    check_written,
    later_roles,
    recognised,
    roles_of,
)
from cycleqd_merge.preflight.harness_prompts import check_harness
from cycleqd_merge.tasks.generate import GenerateTask
from cycleqd_merge.tasks.lm_eval import LmEvalTask
from cycleqd_merge.tasks.prompting import Conversing, LaterTurns
from cycleqd_merge.tasks.protocol import Prompting, TaskSplit
from cycleqd_merge.tasks.suite import Suite, SuiteTask

_SPLITS: tuple[TaskSplit, ...] = ("search", "heldout")


def require_answerable(suite: Suite, tokenizer: PreTrainedTokenizerBase, limit: int | None) -> None:
    """Check that every prompt fits a model with this tokenizer and context length.

    Raises:
        TaskError: a chat prompt has no template, or a prompt is too long; one line per problem.
    """
    errors = [error for task in suite for error in check_prompts(task, tokenizer, limit).errors]
    if errors:
        raise TaskError("\n".join(errors))


def check_prompts(task: SuiteTask, tokenizer: PreTrainedTokenizerBase, limit: int | None) -> Problems:
    """Render and count the tokens of every row, if the task's prompts are known before a model answers.

    Notices are about turns that the chat template changes, and about conversations that can outgrow the context.
    """
    findings = Problems()
    definition = task.definition
    if not isinstance(definition, PromptedTaskConfig | LmEvalTaskConfig):
        return findings
    if definition.is_chat and definition.chat_template is None and not has_template(tokenizer):
        findings.errors.append(
            f"task {task.name}: its prompts are chat turns and the model has no chat template; give the task a "
            "`chat_template`, choose one with `models.chat_template`, or use a plain prompt"
        )
        return findings
    if definition.is_chat and (rejected := check_accepted(task, tokenizer)) is not None:
        findings.errors.append(rejected)
        return findings
    if isinstance(task.task, Prompting) and isinstance(definition, PromptedTaskConfig):
        try:
            lengths = [
                (*prompt_length(task.task, definition, sample, tokenizer), sample.id)
                for split in _SPLITS
                for sample in task.task.samples(split)
            ]
        except UserError as error:
            findings.errors.append(f"task {task.name}: {error}")
            return findings
        _check_lengths(task, definition, tokenizer, limit, lengths, findings)
    if definition.is_chat:
        _add(findings, check_written(task, tokenizer))
    if isinstance(task.task, LmEvalTask) and not findings.errors:  # a turn that is dropped would be reported again
        _add(findings, check_harness(f"task {task.name}", task.task, tokenizer, limit))
    _add(findings, check_thinking(task, tokenizer))
    if definition.is_chat and not findings.errors:  # a turn that is dropped would be reported again
        _add(findings, _check_texts(task, tokenizer))
    return findings


def _add(findings: Problems, found: Problems) -> None:
    findings.errors.extend(found.errors)
    findings.notices.extend(found.notices)


def _check_lengths(
    task: SuiteTask,
    definition: PromptedTaskConfig,
    tokenizer: PreTrainedTokenizerBase,
    limit: int | None,
    lengths: Sequence[tuple[int, int, str]],
    findings: Problems,
) -> None:
    """Report rows that do not fit the context, and conversations that can outgrow it. lengths: prompt, answer, row."""
    over = [] if limit is None else [length for length in lengths if length[0] + length[1] > limit]
    if over:
        prompt, answer, row = max(over, key=lambda length: length[0] + length[1])
        findings.errors.append(
            f"task {task.name}: {len(over)} of {len(lengths)} rows do not fit the model's {limit} tokens: the longest, "
            f"row {row}, has {prompt} prompt tokens and up to {answer} answer tokens; "
            "shorten the prompts or lower `max_new_tokens`"
        )
    elif limit is not None and isinstance(task.task, Conversing):
        prompt, _, row = max(lengths, key=lambda length: length[0])
        findings.notices.extend(_outgrowing(task, definition, task.task.later_turns, tokenizer, limit, prompt, row))


def _check_texts(task: SuiteTask, tokenizer: PreTrainedTokenizerBase) -> Problems:
    """Check that every row's prompt contains the texts of its turns."""
    found, definition, prompting = Problems(), task.definition, task.task
    if not isinstance(definition, PromptedTaskConfig) or not isinstance(prompting, Prompting):
        return found
    problems: dict[tuple[str, str], list[str]] = {}
    for sample in (sample for split in _SPLITS for sample in task.task.samples(split)):
        prompt = prompting.prompt_of(sample)
        assert not isinstance(prompt, str)
        text = render(tokenizer, prompt, definition.chat_template, definition.template_variables)
        if (problem := check_row(prompt, text)) is not None:
            problems.setdefault(problem, []).append(sample.id)
    for (role, what), rows in problems.items():
        line = f"task {task.name}: the chat template {what} the text of the {role} turn in {len(rows)} rows"
        reported = found.errors if what == "drops" else found.notices
        reported.append(f"{line}, such as row {rows[0]}; a `chat_template` of the task's own avoids this")
    return found


def _outgrowing(
    task: SuiteTask,
    definition: PromptedTaskConfig,
    later: LaterTurns,
    tokenizer: PreTrainedTokenizerBase,
    limit: int,
    prompt: int,
    row: str,
) -> list[str]:
    """A notice if a conversation can outgrow the context. prompt: tokens of the longest first prompt, that of `row`."""
    roles = roles_of(definition)
    shapes = [recognised(shape) for shape in (roles, later_roles(roles))]
    first, second = (
        len(encode(tokenizer, render(tokenizer, turns, definition.chat_template, definition.template_variables)))
        - sum(len(tokenizer(str(turn["content"]), add_special_tokens=False).input_ids) for turn in turns)
        for turns in shapes
    )
    answer = definition.max_new_tokens
    added = answer + later.reply + max(second - first, 0)
    fitting = 1 + (limit - prompt - answer) // added
    if fitting >= later.answers:
        return []
    return [
        f"task {task.name}: its conversations can outgrow the model's {limit} tokens, and then end there: up to "
        f"{later.answers} turns of the model, of which {fitting} surely fit after the longest first prompt ({prompt} "
        f"tokens, row {row}), at {answer} tokens per answer and one per character of a reply of {later.reply}; lower "
        f"{later.keys}, or use a model with a longer context"
    ]


def check_answers(task: SuiteTask, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Notices about reference answers that no output can match: too long for a scorer that compares whole answers."""
    definition = task.definition
    if not isinstance(task.task, GenerateTask) or not isinstance(definition, GenerateTaskConfig):
        return []
    if not isinstance(definition.scorer, ExactScorerConfig | TokenF1ScorerConfig | NumberScorerConfig):
        return []
    most = definition.max_new_tokens
    reference_of = task.task.reference_of
    answers = ((reference_of(sample), sample.id) for split in _SPLITS for sample in task.task.samples(split))
    over = [
        (tokens, row)
        for text, row in answers
        if (tokens := len(tokenizer(text, add_special_tokens=False).input_ids)) > most
    ]
    if not over:
        return []
    tokens, row = max(over)
    return [
        f"task {task.name}: {len(over)} reference answers are longer than max_new_tokens, which is {most}; "
        f"that of row {row}, the longest, has {tokens} tokens"
    ]
