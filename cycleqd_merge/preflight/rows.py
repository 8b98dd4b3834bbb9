"""Notices about a task's rows: too few, repeated, in both splits, or with references that may not be meant so."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from cycleqd_merge.config.scorers import (
    ExactScorerConfig,
    NumberScorerConfig,
    RegexScorerConfig,
    TokenF1ScorerConfig,
)
from cycleqd_merge.config.tasks import GenerateTaskConfig
from cycleqd_merge.tasks.equal_rows import content_of
from cycleqd_merge.tasks.generate import GenerateTask
from cycleqd_merge.tasks.protocol import Sample
from cycleqd_merge.tasks.splits import place_of
from cycleqd_merge.tasks.suite import SuiteTask, leak_notices

FEW_ROWS = 20
_MISSING = {
    "nan",
    "none",
    "null",
    "nil",
    "<na>",
    "nat",
    "#n/a",
    "#null!",
    "#div/0!",
    "#value!",
    "#ref!",
    "#name?",
    "#num!",
}
"""Texts by which pandas, databases and spreadsheets mark a missing value or an error, in lower case."""


def check_rows(task: SuiteTask) -> list[str]:
    """Notices about a task's rows."""
    rows = len(task.samples("search"))
    notices = [*_repeated(task), *leak_notices((task,)), *_references(task)]
    if rows < FEW_ROWS:
        notices.append(
            f"task {task.name}: {rows} search rows; with fewer than {FEW_ROWS}, chance decides which child is better"
        )
    if task.confirm_share > 0 and not task.samples("confirm"):
        notices.append(f"task {task.name}: too few rows for a confirmation split: elites will not be confirmed")
    return notices


def _repeated(task: SuiteTask) -> list[str]:
    samples = task.task.samples("search")
    seen = set[str]()
    again = []
    for sample in samples:
        content = content_of(task.task, sample)
        if content in seen:
            again.append(sample)
        seen.add(content)
    if not again:
        return []
    row = place_of(again[0])
    return [f"task {task.name}: {len(again)} of {len(samples)} search rows are duplicates, such as {row}"]


def _references(task: SuiteTask) -> list[str]:
    """Notices about references that are valid, but may not be what is meant."""
    generate, definition = task.task, task.definition
    if not isinstance(generate, GenerateTask) or not isinstance(definition, GenerateTaskConfig):
        return []
    scorer = definition.scorer
    samples = [*generate.samples("search"), *generate.samples("heldout")]

    def notice(is_odd: Callable[[Sample], object], text: str) -> Iterable[str]:
        found = [sample for sample in samples if is_odd(sample)]
        if found:
            yield f"task {task.name}: {len(found)} of {len(samples)} {text}, such as {place_of(found[0])}"

    def reference(sample: Sample) -> str:
        return generate.reference_of(sample).strip()

    def is_number_or_boolean(sample: Sample) -> bool:
        values = [value for value in sample.row.values() if isinstance(value, bool | float)]
        return reference(sample) in map(str, values)

    notices: list[str] = []
    if isinstance(scorer, ExactScorerConfig | TokenF1ScorerConfig):
        notices += notice(lambda sample: not reference(sample), "references are empty: an empty answer scores 1")
        notices += notice(
            is_number_or_boolean, "references are numbers or booleans as Python writes them (`1.0`, `True`)"
        )
    if isinstance(scorer, ExactScorerConfig | TokenF1ScorerConfig | NumberScorerConfig):
        notices += notice(
            lambda sample: reference(sample).lower() in _MISSING, "references are marks of a missing value or an error"
        )
    if isinstance(scorer, TokenF1ScorerConfig) and scorer.first_line:
        notices += notice(
            lambda sample: len(reference(sample).splitlines()) > 1,
            "references have several lines, of which `first_line` lets an answer match one",
        )
    if isinstance(scorer, RegexScorerConfig):
        find = re.fullmatch if scorer.full else re.search
        notices += notice(
            lambda sample: find(generate.reference_of(sample), ""), "references match an empty answer, which scores 1"
        )
    notices += notice(
        lambda sample: _has_equal(generate.choices_of(sample)), "rows have equal choices, which share one score"
    )
    return notices


def _has_equal(choices: Sequence[str]) -> bool:
    return len({choice.strip() for choice in choices}) < len(choices)
