"""Reasons to doubt a comparison: noise, false wins, truncated answers, rows that are not held out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cycleqd_merge.comparison.conclusions import HeadToHead, ModelStatistics, largest_volumes
from cycleqd_merge.comparison.results import ComparisonResult
from cycleqd_merge.comparison.statistics import chance_of_a_false_difference, spread_over_seeds

FEW_SEEDS = 5
"""Number of seeds below which a strategy's spread is hardly known: Student's factor is 12.7 for 2 and 2.8 for 5."""
TRUNCATED = 0.05
"""Share of answers cut off by the token limit above which a score is doubtful."""


def comparison_warnings(
    result: ComparisonResult, models: Sequence[ModelStatistics], best: HeadToHead | None
) -> list[str]:
    """A sentence for each reason to doubt the scores; empty if there is none."""
    return [
        *_tuning(result),
        *_noise(result.reference, models, best),
        *_over_seeds(result.reference, models, best),
        *_volumes(result),
        *_few_seeds(models),
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


def _over_seeds(reference: str, models: Sequence[ModelStatistics], best: HeadToHead | None) -> list[str]:
    """Differences that the rows show and the seeds do not."""
    lines = []
    unclear = [
        each.model.name
        for each in models
        if each.difference is not None
        and not each.difference.holds_zero
        and each.over_rows_and_seeds is not None
        and each.over_rows_and_seeds.holds_zero
    ]
    if best is not None and best.other in unclear:
        lines.append(
            f"Over rows and seeds, {best.reference} and {best.other} are not distinguishable: the difference holds for "
            "the models of these runs; more seeds are needed to show whether it holds for the strategies."
        )
    others = [name for name in unclear if best is None or name != best.other]
    if others:
        lines.append(
            f"Different from {reference} over rows, but not distinguishable over rows and seeds: {', '.join(others)}."
        )
    return lines


def _volumes(result: ComparisonResult) -> list[str]:
    """Two largest hypervolumes whose difference is within the spread of the seeds."""
    if len(result.runs_by_strategy) < 2:
        return []
    seeded = {model.strategy for model in result.models if model.seeds}
    (first, most), (second, less) = largest_volumes(result)[:2]
    spread = spread_over_seeds(*(values if name in seeded else () for name, values in ((first, most), (second, less))))
    if spread is None or np.mean(most) - np.mean(less) > spread:
        return []
    return [f"The hypervolumes of {first} and {second} are not distinguishable over seeds."]


def _few_seeds(models: Sequence[ModelStatistics]) -> list[str]:
    """Every strategy whose seeds say little about it."""
    seeds: dict[str, int] = {}
    for each in models:
        if each.model.seeds:
            name = each.model.strategy or each.model.name
            seeds[name] = min(each.model.seeds, seeds.get(name, each.model.seeds))
    one = [name for name, count in seeds.items() if count == 1]
    few = [f"{name} ({count})" for name, count in seeds.items() if 1 < count < FEW_SEEDS]
    lines = []
    if one:
        lines.append(
            f"Only one seed of {', '.join(one)}: intervals are over rows alone, so differences hold for the models of "
            f"these runs and not for the strategies; use at least {FEW_SEEDS} seeds (--seeds)."
        )
    if few:
        lines.append(
            f"Few seeds of {', '.join(few)}: with fewer than {FEW_SEEDS}, intervals over seeds are wide; intervals "
            "over rows alone hold for the models of these runs and not for the strategies."
        )
    return lines


def many_comparisons(result: ComparisonResult) -> list[str]:
    """One sentence on how often a difference appears by accident, if there are several comparisons."""
    count = len(result.models) - 1
    if count < 2:
        return []
    return [
        f"{count} models are compared with {result.reference}, each at 95%: if all were equally good, at least one "
        f"would still appear to differ with a chance of up to {chance_of_a_false_difference(count):.0%}."
    ]


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
