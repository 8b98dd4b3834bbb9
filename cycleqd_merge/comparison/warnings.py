"""What to distrust in a comparison: noise, false wins, cut answers, rows that are not held out."""

from __future__ import annotations

from collections.abc import Sequence

from cycleqd_merge.comparison.results import Findings
from cycleqd_merge.comparison.verdicts import Contest, Verdict

TRUNCATED = 0.05
"""The share of answers cut by the token limit above which a score is distrusted."""


def warnings(findings: Findings, found: Sequence[Verdict], decided: Contest | None) -> list[str]:
    """What keeps the figures from being taken at their word, a sentence each; none if nothing does."""
    return [
        *_tuning(findings),
        *_noise(findings.reference, found, decided),
        *_false_wins(found),
        *_cut_answers(found),
        *_unclean_rows(findings),
    ]


def _tuning(findings: Findings) -> list[str]:
    if findings.opened.rows == "heldout":
        return []
    return [
        "Rows set aside from the search split stand for the held-out rows, which stay closed: to tune, not to report."
    ]


def _noise(reference: str, found: Sequence[Verdict], decided: Contest | None) -> list[str]:
    lines = []
    if decided is not None and decided.difference.holds_zero:
        lines.append(
            f"The difference between {decided.own} and its best rival, {decided.rival}, is inside noise: "
            "these rows do not tell which is better."
        )
    if decided is not None and _overlap(found, decided):
        lines.append(
            f"Over seeds, the intervals of {decided.own} and {decided.rival} overlap: the difference holds for these "
            "runs' models; more seeds would tell whether it holds for their searches."
        )
    alike = [
        verdict.entrant.name
        for verdict in found
        if verdict.difference is not None
        and verdict.difference.holds_zero
        and (decided is None or verdict.entrant.name != decided.rival)
    ]
    if alike:
        lines.append(f"Not told apart from {reference}: {', '.join(alike)}.")
    return lines


def _overlap(found: Sequence[Verdict], decided: Contest) -> bool:
    """Whether the difference is clear over rows, and yet inside what seeds make of either side."""
    spans = {verdict.entrant.name: verdict.over_seeds for verdict in found}
    own, rival = spans[decided.own], spans[decided.rival]
    if decided.difference.holds_zero or own is None or rival is None:
        return False
    return own.low <= rival.high and rival.low <= own.high


def _false_wins(found: Sequence[Verdict]) -> list[str]:
    """Of entrants that were chosen by their search scores: base and experts were not."""
    return [
        f"False win: the search score of {verdict.entrant.name} lies {verdict.gap.difference:.3f} above its held-out "
        f"score, more than two standard errors ({verdict.gap.error:.3f}): it fits the rows of the search."
        for verdict in found
        if verdict.entrant.kind not in ("base", "expert") and verdict.gap is not None and verdict.gap.large
    ]


def _cut_answers(found: Sequence[Verdict]) -> list[str]:
    cut = {
        verdict.entrant.name: {task: share for task, share in verdict.truncated.items() if share > TRUNCATED}
        for verdict in found
    }
    named = [
        f"{name} ({', '.join(f'{task} {share:.0%}' for task, share in tasks.items())})"
        for name, tasks in cut.items()
        if tasks
    ]
    if not named:
        return []
    return [
        f"The token limit cut more than {TRUNCATED:.0%} of the answers of {', '.join(named)}: such scores may be the "
        "limit's; a higher max_new_tokens would tell."
    ]


def _unclean_rows(findings: Findings) -> list[str]:
    lines = [
        f"Task {task}: {count.duplicates} of {count.heldout} held-out rows are rows of the search too; "
        "scores on them are not held out."
        for task, count in findings.rows.items()
        if count.duplicates
    ]
    lines += [f"{name}: a model of it could not be scored; the journal says why." for name in findings.unscored]
    return lines
