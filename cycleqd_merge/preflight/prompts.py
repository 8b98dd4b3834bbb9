"""Whether the model can take the rows of the tasks: chat template, token limits, repeated and missing rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from transformers import PreTrainedTokenizerBase

from cycleqd_merge.config.scorers import ExactScorerConfig, NumberScorerConfig, TokenF1ScorerConfig
from cycleqd_merge.config.tasks import GenerateTaskConfig, LmEvalTaskConfig, PromptedTaskConfig
from cycleqd_merge.errors import UserError
from cycleqd_merge.evaluation.engines.prompts import encode, render
from cycleqd_merge.merging.checks import Problems
from cycleqd_merge.merging.family import ModelFamily
from cycleqd_merge.merging.tokenizers import family_tokenizer
from cycleqd_merge.tasks.generate import Generate
from cycleqd_merge.tasks.protocol import Prompting, Sample, Split
from cycleqd_merge.tasks.suite import Suite, SuiteTask

FEW_ROWS = 20
_UNLIMITED = 10**9  # a tokenizer that knows no limit states 10^30
_SPLITS: tuple[Split, ...] = ("search", "heldout")


def require_answerable(suite: Suite, family: ModelFamily) -> None:
    """Check that the model can take every row.

    Raises:
        UserError: a prompt has no chat template to go through, or is too long; a line per fault.
    """
    tokenizer = family_tokenizer(family)
    limit = context_length(family, tokenizer)
    faults = [fault for task in suite for fault in check_prompts(task, tokenizer, limit).faults]
    if faults:
        raise UserError("\n".join(faults))


def context_length(family: ModelFamily, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The most tokens that the model takes, prompt and answer together; None if nothing states it."""
    stated = getattr(family.base.config.get_text_config(), "max_position_embeddings", None)
    limits = [limit for limit in (stated, tokenizer.model_max_length) if limit and 0 < limit < _UNLIMITED]
    return int(min(limits, default=0)) or None


def check_prompts(task: SuiteTask, tokenizer: PreTrainedTokenizerBase, limit: int | None) -> Problems:
    """Render and count every row, of both splits, where a task's prompts are known before a model is asked."""
    findings = Problems()
    definition = task.definition
    if not isinstance(definition, PromptedTaskConfig | LmEvalTaskConfig):
        return findings
    if definition.is_chat and definition.chat_template is None and not tokenizer.chat_template:
        findings.faults.append(
            f"task {task.name}: its prompts are chat turns and the model has no chat template; give the task a "
            "`chat_template`, choose one with `models.chat_template`, or use a plain prompt"
        )
        return findings
    if not isinstance(task.task, Prompting) or not isinstance(definition, PromptedTaskConfig):
        return findings
    try:
        lengths = [(*_length(task.task, definition, sample, tokenizer), sample.id) for sample in _all_rows(task)]
    except UserError as error:
        findings.faults.append(f"task {task.name}: {error}")
        return findings
    if limit is not None:
        _check_fit(task.name, lengths, limit, findings)
    if isinstance(task.task, Generate):
        _check_answers(task, tokenizer, findings)
    return findings


def _all_rows(task: SuiteTask) -> Iterator[Sample]:
    return (sample for split in _SPLITS for sample in task.task.samples(split))


def _length(
    task: Prompting, definition: PromptedTaskConfig, sample: Sample, tokenizer: PreTrainedTokenizerBase
) -> tuple[int, int]:
    """Tokens of a row's prompt, and the most that may follow."""
    prompt = task.prompt_of(sample)
    try:
        text = prompt if isinstance(prompt, str) else render(tokenizer, prompt, definition.chat_template)
    except UserError as error:
        raise UserError(f"{error}; in row {sample.id}") from error
    before = len(encode(tokenizer, text))
    choices = task.choices_of(sample) if isinstance(task, Generate) else []
    scored = [len(encode(tokenizer, type(text)(text + choice))) - before for choice in choices]
    return before, max(scored, default=definition.max_new_tokens)


def _check_fit(task: str, lengths: Sequence[tuple[int, int, str]], limit: int, findings: Problems) -> None:
    over = [length for length in lengths if length[0] + length[1] > limit]
    if over:
        prompt, answer, row = max(over, key=lambda length: length[0] + length[1])
        findings.faults.append(
            f"task {task}: {len(over)} of {len(lengths)} rows do not fit the model's {limit} tokens: row {row}, the "
            f"longest, has {prompt} and its answer may take {answer}; shorten the prompts or lower `max_new_tokens`"
        )


def _check_answers(task: SuiteTask, tokenizer: PreTrainedTokenizerBase, findings: Problems) -> None:
    """Reference answers that no output can reach, where the scorer compares with the whole of them."""
    definition = task.definition
    if not isinstance(task.task, Generate) or not isinstance(definition, GenerateTaskConfig):
        return
    if not isinstance(definition.scorer, ExactScorerConfig | TokenF1ScorerConfig | NumberScorerConfig):
        return
    most = definition.max_new_tokens
    reference_of = task.task.reference_of
    answers = ((reference_of(sample), sample.id) for sample in _all_rows(task))
    over = [
        (tokens, row)
        for text, row in answers
        if (tokens := len(tokenizer(text, add_special_tokens=False).input_ids)) > most
    ]
    if over:
        tokens, row = max(over)
        findings.notices.append(
            f"task {task.name}: {len(over)} reference answers are longer than max_new_tokens, which is {most}; "
            f"that of row {row}, the longest, has {tokens} tokens"
        )


def check_rows(task: SuiteTask) -> list[str]:
    """Notices about a task's rows: few, repeated, held out but searched on, none to confirm elites with."""
    searched = [_content(task, sample) for sample in task.task.samples("search")]
    notices = [*_repeated(task, searched), *_leaked(task, set(searched))]
    rows = len(task.samples("search"))
    if rows < FEW_ROWS:
        notices.append(f"task {task.name}: {rows} search rows; below {FEW_ROWS} chance decides which child is better")
    if task.confirm_share > 0 and not task.samples("confirm"):
        notices.append(f"task {task.name}: too few rows to set any aside: elites will not be confirmed")
    return notices


def _repeated(task: SuiteTask, searched: Sequence[str]) -> list[str]:
    count = len(searched) - len(set(searched))
    if not count:
        return []
    samples = task.task.samples("search")
    row = next(sample.id for place, sample in enumerate(samples) if searched[place] in searched[:place])
    return [f"task {task.name}: {count} of {len(searched)} search rows repeat others, such as row {row}"]


def _leaked(task: SuiteTask, searched: set[str]) -> list[str]:
    heldout = task.task.samples("heldout")
    leaked = [sample.id for sample in heldout if _content(task, sample) in searched]
    if not leaked:
        return []
    return [f"task {task.name}: {len(leaked)} of {len(heldout)} held-out rows are search rows too, such as {leaked[0]}"]


def _content(task: SuiteTask, sample: Sample) -> str:
    """What makes two rows the same: prompt and answer, or the id where a task of another kind keeps them to itself."""
    if not isinstance(task.task, Generate):
        return sample.id
    return json.dumps([task.task.prompt_of(sample), task.task.reference_of(sample), task.task.choices_of(sample)])
