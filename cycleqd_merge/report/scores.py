"""Scores of a run's usual models on the search and held-out splits, with standard errors, and who is best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from cycleqd_merge.evolution.candidate import Candidate
from cycleqd_merge.evolution.genome import expert_genome, level_genome
from cycleqd_merge.journal.measured import Estimate
from cycleqd_merge.journal.outcomes import RowOutcomes, TaskOutcomes
from cycleqd_merge.report.paired import RowScores, paired_bootstrap
from cycleqd_merge.run.state import Run

Estimates = Mapping[str, Estimate]
"""By task; empty if a model was not scored."""


@dataclass(frozen=True)
class ModelScores:
    """A model of a run, by the name that `export` accepts. number: of its evaluation, if the search evaluated it."""

    name: str
    number: int | None
    search: Estimates
    heldout: Estimates
    rows: Mapping[str, TaskOutcomes] = field(default_factory=dict)
    """By split, the outcomes of its rows; none where they were not recorded."""


def usual_scores(run: Run) -> list[ModelScores]:
    """Base, experts and their plain mean; with elites, also the best-mean elite and the aggregate if it exists."""
    experts, groups = len(run.experts), len(run.groups)
    scored = [model_scores(run, "base", level_genome(0.0, experts, groups))]
    for number, name in enumerate(run.experts):
        scored.append(model_scores(run, f"expert:{name}", expert_genome(number, experts, groups), number))
    scored.append(model_scores(run, "mean", level_genome(1.0 / experts, experts, groups)))
    if run.elites():
        best = run.best_mean()
        scored.append(model_scores(run, "best-mean", run.candidate(best), best))
    if run.has_aggregate:
        scored.append(model_scores(run, "aggregate", run.aggregate()))
    return scored


def model_scores(run: Run, name: str, candidate: Candidate, number: int | None = None) -> ModelScores:
    """The journaled scores of a model. number: of its evaluation, if it has one."""
    digest = run.digest(candidate)
    searched = run.measured.get((digest, "search")) or search_estimates(run, number)
    rows = {split: run.measured_outcomes.get((digest, split), {}) for split in ("search", "heldout")}
    if (digest, "search") not in run.measured and number is not None:
        rows["search"] = run.outcomes(number)
    return ModelScores(name, number, searched, run.measured.get((digest, "heldout"), {}), rows)


def search_estimates(run: Run, number: int | None) -> Estimates:
    """The search scores of an evaluation. Where its rows' outcomes are not recorded, the errors are upper bounds."""
    if number is None or number >= len(run.results) or run.results[number]["scores"] is None:
        return {}
    counts = {task: facts["rows"]["search"] for task, facts in run.start.get("tasks", {}).items()}
    scores, outcomes = zip(run.tasks, run.scores(number), strict=True), run.outcomes(number)
    return {
        task: _estimate(outcomes[task]) if task in outcomes else Estimate.at_most(score, counts.get(task, 0))
        for task, score in scores
    }


def _estimate(rows: RowOutcomes) -> Estimate:
    return Estimate.of(rows.scores.tolist(), float(rows.truncated.mean()))


def mean_of(estimates: Estimates, tasks: Sequence[str]) -> Estimate | None:
    """The mean over `tasks` with its standard error, of independent rows; None if a task is missing."""
    if not tasks or any(task not in estimates for task in tasks):
        return None
    chosen = [estimates[task] for task in tasks]
    errors = [estimate.error for estimate in chosen if estimate.error is not None]
    error = math.hypot(*errors) / len(chosen) if len(errors) == len(chosen) else None
    score = sum(estimate.score for estimate in chosen) / len(chosen)
    return Estimate(score, error, sum(estimate.samples for estimate in chosen))


@dataclass(frozen=True)
class ScoreRow:
    """A model's estimate for each task of a `ScoreTable`, None if it was not scored, and for their mean."""

    model: str
    tasks: tuple[Estimate | None, ...]
    mean: Estimate | None

    @property
    def scores(self) -> tuple[float | None, ...]:
        """The score for each task, then their mean; None where it has none."""
        return tuple(None if estimate is None else estimate.score for estimate in (*self.tasks, self.mean))


@dataclass(frozen=True)
class ScoreTable:
    """Models by tasks on one split; terminal, card, page and comparison each show it in their own form."""

    tasks: tuple[str, ...]
    rows: tuple[ScoreRow, ...]

    @classmethod
    def of(cls, models: Mapping[str, Estimates], tasks: Sequence[str], objectives: Sequence[str]) -> ScoreTable:
        """models: by name; those without any score are left out. The mean is over `objectives`."""
        rows = (
            ScoreRow(name, tuple(estimates.get(task) for task in tasks), mean_of(estimates, objectives))
            for name, estimates in models.items()
            if estimates
        )
        return cls(tuple(tasks), tuple(rows))

    @classmethod
    def of_scores(
        cls, models: Mapping[str, Sequence[float]], tasks: Sequence[str], objectives: Sequence[str]
    ) -> ScoreTable:
        """A table of scores in the order of `tasks`, whose errors and numbers of rows are unknown."""
        known = {name: [Estimate(score, None, 0) for score in scores] for name, scores in models.items()}
        return cls.of({name: dict(zip(tasks, each, strict=True)) for name, each in known.items()}, tasks, objectives)

    @property
    def best(self) -> tuple[float | None, ...]:
        """The highest score for each task, then the highest mean; None where no model has one."""
        columns = zip(*(row.scores for row in self.rows), strict=True)
        return tuple(max((score for score in column if score is not None), default=None) for column in columns)

    def samples(self, place: int) -> set[int]:
        """The numbers of rows that the models were scored on in the task at `place`."""
        return {estimate.samples for row in self.rows if (estimate := row.tasks[place]) is not None}


@dataclass(frozen=True)
class Comparison:
    """The difference between a model's mean and that of the best of base, experts and plain mean, on the same rows.

    error: of the difference, as if both had been scored on independent rows; on the same rows it is usually smaller.
    interval: the ends of its 95% interval by the paired bootstrap, where the outcomes of both models' rows are
    recorded; it then decides.
    """

    baseline: str
    split: str
    difference: float
    error: float | None
    interval: tuple[float, float] | None = None

    @property
    def clear(self) -> bool:
        """Whether the interval excludes zero; without one, whether the difference exceeds two standard errors."""
        if self.interval is not None:
            return not self.interval[0] <= 0.0 <= self.interval[1]
        return self.error is not None and abs(self.difference) > 2 * self.error


def compare_best(scored: Sequence[ModelScores], tasks: Sequence[str], name: str = "best-mean") -> Comparison | None:
    """The model `name` against the best baseline, on the held-out split if both were scored on it, else on search."""
    for split in ("heldout", "search"):
        means = {model.name: mean_of(getattr(model, split), tasks) for model in scored}
        own = means.pop(name, None)
        baselines = {each: mean for each, mean in means.items() if mean is not None and _is_baseline(each)}
        if own is not None and baselines:
            baseline, best = max(baselines.items(), key=lambda item: item[1].score)
            errors = (own.error, best.error)
            error = None if None in errors else math.hypot(*(error or 0.0 for error in errors))
            found = Comparison(baseline, split, own.score - best.score, error)
            rows = {model.name: model.rows.get(split, {}) for model in scored}
            return paired_by_row(found, _row_scores(rows[name], tasks), _row_scores(rows[baseline], tasks))
    return None


def paired_by_row(comparison: Comparison, own: RowScores, other: RowScores) -> Comparison:
    """The comparison with the interval of the paired bootstrap; unchanged if either side has no scores of rows."""
    if not own or not other:
        return comparison
    interval = paired_bootstrap(own, other)
    return replace(comparison, difference=interval.estimate, interval=(interval.low, interval.high))


def _row_scores(outcomes: TaskOutcomes, tasks: Sequence[str]) -> RowScores:
    """Scores by row of all tasks; empty if a task has none."""
    return {task: outcomes[task].scores for task in tasks} if all(task in outcomes for task in tasks) else {}


def _is_baseline(name: str) -> bool:
    """Whether a model exists without a search."""
    return name in ("base", "mean") or name.startswith("expert:")
