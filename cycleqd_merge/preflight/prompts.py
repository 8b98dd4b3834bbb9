"""Whether tasks and model fit together: chat template, token limits."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from cycleqd_merge.config.scorers import ExactScorerConfig, NumberScorerConfig, TokenF1ScorerConfig
from cycleqd_merge.config.tasks import GenerateTaskConfig, LmEvalTaskConfig, PromptedTaskConfig
from cycleqd_merge.errors import TaskError, UserError
from cycleqd_merge.evaluation.engines.prompts import prompt_length
from cycleqd_merge.merging.checks import Problems
from cycleqd_merge.tasks.generate import GenerateTask
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
