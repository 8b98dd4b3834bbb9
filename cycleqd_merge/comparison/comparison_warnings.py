"""Reasons to doubt a comparison: noise, false wins, truncated answers, rows that are not held out."""

from __future__ import annotations

from collections.abc import Sequence

from cycleqd_merge.comparison.conclusions import HeadToHead, ModelStatistics
from cycleqd_merge.comparison.results import ComparisonResult

TRUNCATED = 0.05
"""Share of answers cut off by the token limit above which a score is doubtful."""


def comparison_warnings(
    result: ComparisonResult, models: Sequence[ModelStatistics], best: HeadToHead | None
) -> list[str]:
    """A sentence for each reason to doubt the scores; empty if there is none."""
    return [
        *_tuning(result),
        *_noise(result.reference, models, best),
        *_false_wins(models),
        *_truncated_answers(models),
        *_rows_seen(result),
        *_unscored(result),
    ]


def _tuning(result: ComparisonResult) -> list[str]:
    if result.opened.rows == "heldout":
        return []
    return [
        "Final scores are on the confirmation split, and the held-out split was not opened: use them for tuning, not "
        "for reporting."
    ]


def _noise(reference: str, models: Sequence[ModelStatistics], best: HeadToHead | None) -> list[str]:
    lines = []
    if best is not None and best.difference.holds_zero:
        lines.append(
            f"The difference between {best.reference} and the best other model, {best.other}, is within noise: "
            "these rows do not show which is better."
        )
    if best is not None and _overlap(models, best):
        lines.append(
            f"Over seeds, the intervals of {best.reference} and {best.other} overlap: the difference holds for the "
            "models of these runs; more seeds are needed to show whether it holds for the strategies."
        )
    alike = [
        each.model.name
        for each in models
        if each.difference is not None
        and each.difference.holds_zero
        and (best is None or each.model.name != best.other)
    ]
    if alike:
        lines.append(f"Not distinguishable from {reference}: {', '.join(alike)}.")
    return lines


def _overlap(models: Sequence[ModelStatistics], best: HeadToHead) -> bool:
    """Whether the rows show a difference, but the intervals over seeds overlap."""
    intervals = {each.model.name: each.over_seeds for each in models}
    own, other = intervals[best.reference], intervals[best.other]
    if best.difference.holds_zero or own is None or other is None:
        return False
    return own.low <= other.high and other.low <= own.high


def _false_wins(models: Sequence[ModelStatistics]) -> list[str]:
    """Only for models that were chosen by their search scores: base and experts were not."""
    return [
        f"False win: the search score of {each.model.name} is {each.gap.difference:.3f} above its held-out score, more "
        f"than two standard errors ({each.gap.error:.3f}): it fits the rows of the search split."
        for each in models
        if each.model.kind not in ("base", "expert") and each.gap is not None and each.gap.large
    ]


def _truncated_answers(models: Sequence[ModelStatistics]) -> list[str]:
    cut = {
        each.model.name: {task: share for task, share in each.truncated.items() if share > TRUNCATED} for each in models
    }
    named = [
        f"{name} ({', '.join(f'{task} {share:.0%}' for task, share in tasks.items())})"
        for name, tasks in cut.items()
        if tasks
    ]
    if not named:
        return []
    return [
        f"The token limit cut off more than {TRUNCATED:.0%} of the answers of {', '.join(named)}: their scores may "
        "reflect the limit; raise max_new_tokens to find out."
    ]


def _rows_seen(result: ComparisonResult) -> list[str]:
    final, seen = ("held-out", "search or confirmation") if result.opened.rows == "heldout" else ("final", "search")
    return [
        f"Task {task}: {count.duplicates} of {count.heldout} {final} rows also occur in the {seen} split; "
        "scores on them are not held out."
        for task, count in result.rows.items()
        if count.duplicates
    ]


def _unscored(result: ComparisonResult) -> list[str]:
    return [
        f"{name} could not be scored at the end for at least one seed; the journal has the error."
        for name in result.unscored
    ]
