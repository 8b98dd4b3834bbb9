"""What follows from the findings of a comparison: each entrant's score, and who beats whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cycleqd_merge.comparison.results import Entrant, Findings, Judged, Search
from cycleqd_merge.comparison.statistics import (
    Gap,
    Interval,
    hypervolume,
    paired_bootstrap,
    search_gap,
    seeds_interval,
)
from cycleqd_merge.journal.measured import Estimate
from cycleqd_merge.report.scores import ScoreRow, mean_of


@dataclass(frozen=True, slots=True)
class Verdict:
    """An entrant on held-out rows.

    heldout: by task, averaged over rows and seeds. mean: of the tasks that count. seeds: that mean by seed, with
    `over_seeds` its interval. difference: to the reference, above zero if the entrant is better; None of the reference
    itself. gap: from search to held-out rows; None where it was not scored on search rows. truncated: by task, averaged
    over seeds.
    """

    entrant: Entrant
    heldout: dict[str, float]
    mean: float
    seeds: tuple[float, ...]
    over_seeds: Interval | None
    difference: Interval | None
    gap: Gap | None
    truncated: dict[str, float]

    def row(self, tasks: Sequence[str]) -> ScoreRow:
        """Its row of a table of held-out scores over `tasks`. Errors are left out: intervals say what is noise."""
        rows = {task: len(self.entrant.judged[0].heldout[task]) for task in tasks}
        estimates = tuple(Estimate(self.heldout[task], None, rows[task]) for task in tasks)
        return ScoreRow(self.entrant.name, estimates, Estimate(self.mean, None, sum(rows.values())))


def verdicts(findings: Findings) -> list[Verdict]:
    """One verdict per entrant, in their order."""
    return [_verdict(findings, entrant) for entrant in findings.entrants]


def _verdict(findings: Findings, entrant: Entrant) -> Verdict:
    tasks = (*findings.tasks, *findings.kept)
    heldout = {task: float(entrant.heldout(task).mean()) for task in tasks}
    seeds = tuple(
        float(np.mean([np.mean(judged.heldout[task]) for task in findings.tasks])) for judged in entrant.judged
    )
    reference = findings.by_name[findings.reference]
    return Verdict(
        entrant=entrant,
        heldout=heldout,
        mean=float(np.mean([heldout[task] for task in findings.tasks])),
        seeds=seeds,
        over_seeds=seeds_interval(seeds),
        difference=None if entrant is reference else difference(entrant, reference, findings.tasks),
        gap=_gap(entrant, findings.tasks),
        truncated={task: _mean_truncated(entrant.judged, task) for task in tasks},
    )


def difference(own: Entrant, rival: Entrant, tasks: Sequence[str]) -> Interval:
    """The paired difference of two entrants on held-out rows, each row's score averaged over seeds."""
    return paired_bootstrap({task: own.heldout(task) for task in tasks}, {task: rival.heldout(task) for task in tasks})


def _gap(entrant: Entrant, tasks: Sequence[str]) -> Gap | None:
    if any(task not in judged.search for judged in entrant.judged for task in tasks):
        return None
    searched = {task: _over_seeds([judged.search[task] for judged in entrant.judged]) for task in tasks}
    held = {task: Estimate.of(entrant.heldout(task).tolist()) for task in tasks}
    search, heldout = mean_of(searched, tasks), mean_of(held, tasks)
    return None if search is None or heldout is None else search_gap(search, heldout)


def _over_seeds(estimates: Sequence[Estimate]) -> Estimate:
    """Their mean; all seeds share their rows, so the mean of the errors bounds its error."""
    errors = [estimate.error for estimate in estimates if estimate.error is not None]
    error = float(np.mean(errors)) if len(errors) == len(estimates) else None
    return Estimate(float(np.mean([estimate.score for estimate in estimates])), error, estimates[0].samples)


def _mean_truncated(judged: Sequence[Judged], task: str) -> float:
    return float(np.mean([each.truncated.get(task, 0.0) for each in judged]))


@dataclass(frozen=True, slots=True)
class Contest:
    """The reference against its best rival: the best held-out mean that another strategy, or none, came to."""

    own: str
    rival: str
    difference: Interval


def contest(findings: Findings, found: Sequence[Verdict]) -> Contest | None:
    """The contest that the comparison is about; None where the reference has no rival."""
    own = findings.by_name[findings.reference]
    rivals = [
        verdict
        for verdict in found
        if verdict.entrant is not own and (own.strategy is None or verdict.entrant.strategy != own.strategy)
    ]
    if not rivals:
        return None
    rival = max(rivals, key=lambda verdict: verdict.mean).entrant
    return Contest(own.name, rival.name, difference(own, rival, findings.tasks))


def family_volumes(searches: Sequence[Search]) -> tuple[float, ...]:
    """Hypervolume of the held-out scores of each search's family."""
    return tuple(hypervolume(search.family) for search in searches)


def conclusions(findings: Findings, decided: Contest | None) -> list[str]:
    """Sentences that say who won: the reference against its best rival, and the families by their hypervolume."""
    lines = []
    if decided is not None:
        lines.append(f"{decided.own} against its best rival, {decided.rival}: {_apart(decided.difference)}.")
    volumes = {name: float(np.mean(family_volumes(searches))) for name, searches in findings.by_strategy.items()}
    if len(volumes) > 1:
        first, second = sorted(volumes, key=lambda name: -volumes[name])[:2]
        lines.append(
            f"The largest hypervolume on held-out rows is that of {first}, {volumes[first]:.4f}; "
            f"{second} follows with {volumes[second]:.4f}."
        )
    return lines


def _apart(interval: Interval) -> str:
    return f"{interval.estimate:+.3f} (95%: {interval.low:+.3f} to {interval.high:+.3f})"
