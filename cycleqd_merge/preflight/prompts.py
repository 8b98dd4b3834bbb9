"""Whether tasks and model fit together: chat template, token limits, repeated and missing rows."""

from __future__ import annotations

import json
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from cycleqd_merge.config.scorers import ExactScorerConfig, NumberScorerConfig, TokenF1ScorerConfig
from cycleqd_merge.config.tasks import GenerateTaskConfig, LmEvalTaskConfig, PromptedTaskConfig
from cycleqd_merge.errors import TaskError, UserError
from cycleqd_merge.evaluation.engines.prompts import prompt_length
from cycleqd_merge.merging.checks import Problems
from cycleqd_merge.tasks.generate import GenerateTask
from cycleqd_merge.tasks.protocol import Prompting, Sample, TaskSplit
from cycleqd_merge.tasks.suite import Suite, SuiteTask

FEW_ROWS = 20
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
    """Render and count the tokens of every row, if the task's prompts are known before a model answers."""
    findings = Problems()
    definition = task.definition
    if not isinstance(definition, PromptedTaskConfig | LmEvalTaskConfig):
        return findings
    if definition.is_chat and definition.chat_template is None and not tokenizer.chat_template:
        findings.errors.append(
            f"task {task.name}: its prompts are chat turns and the model has no chat template; give the task a "
            "`chat_template`, choose one with `models.chat_template`, or use a plain prompt"
        )
        return findings
    if not isinstance(task.task, Prompting) or not isinstance(definition, PromptedTaskConfig):
        return findings
    try:
        lengths = [
            (*prompt_length(task.task, definition, sample, tokenizer), sample.id)
            for split in _SPLITS
            for sample in task.task.samples(split)
        ]
    except UserError as error:
        findings.errors.append(f"task {task.name}: {error}")
        return findings
    over = [] if limit is None else [length for length in lengths if length[0] + length[1] > limit]
    if over:
        prompt, answer, row = max(over, key=lambda length: length[0] + length[1])
        findings.errors.append(
            f"task {task.name}: {len(over)} of {len(lengths)} rows do not fit the model's {limit} tokens: the longest, "
            f"row {row}, has {prompt} prompt tokens and up to {answer} answer tokens; "
            "shorten the prompts or lower `max_new_tokens`"
        )
    return findings


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


def check_rows(task: SuiteTask) -> list[str]:
    """Notices about a task's rows: too few, repeated, in both splits, none for the confirmation split."""
    searched = [_content(task, sample) for sample in task.task.samples("search")]
    notices = [*_repeated(task, searched), *_leaked(task, set(searched))]
    rows = len(task.samples("search"))
    if rows < FEW_ROWS:
        notices.append(
            f"task {task.name}: {rows} search rows; with fewer than {FEW_ROWS}, chance decides which child is better"
        )
    if task.confirm_share > 0 and not task.samples("confirm"):
        notices.append(f"task {task.name}: too few rows for a confirmation split: elites will not be confirmed")
    return notices


def _repeated(task: SuiteTask, searched: Sequence[str]) -> list[str]:
    count = len(searched) - len(set(searched))
    if not count:
        return []
    samples = task.task.samples("search")
    row = next(sample.id for place, sample in enumerate(samples) if searched[place] in searched[:place])
    return [f"task {task.name}: {count} of {len(searched)} search rows are duplicates, such as row {row}"]


def _leaked(task: SuiteTask, searched: set[str]) -> list[str]:
    heldout = task.task.samples("heldout")
    leaked = [sample.id for sample in heldout if _content(task, sample) in searched]
    if not leaked:
        return []
    return [
        f"task {task.name}: {len(leaked)} of {len(heldout)} held-out rows are also search rows, such as {leaked[0]}"
    ]


def _content(task: SuiteTask, sample: Sample) -> str:
    """The content that rows are compared by: prompt and answer; the id for tasks whose prompts are not known."""
    if not isinstance(task.task, GenerateTask):
        return sample.id
    return json.dumps([task.task.prompt_of(sample), task.task.reference_of(sample), task.task.choices_of(sample)])
