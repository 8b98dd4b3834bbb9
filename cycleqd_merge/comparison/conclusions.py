"""Conclusions from a comparison's result: each model's scores with their statistics, and which model is better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cycleqd_merge.comparison.results import (
    ComparedModel,
    ComparisonResult,
    SeedScores,
    StrategyRunResult,
)
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
from cycleqd_merge.tasks.protocol import SPLIT_NAMES


@dataclass(frozen=True, slots=True)
class ModelStatistics:
    """A model's held-out scores with their statistics.

    heldout: by task, averaged over rows and seeds. mean: over the tasks that count. mean_by_seed: that mean for each
    seed, with `over_seeds` its interval. difference: from the reference, positive if this model is better; None for the
    reference itself. gap: from search to held-out scores; None if there are no search scores. truncated: by task,
    averaged over seeds.
    """

    model: ComparedModel
    heldout: dict[str, float]
    mean: float
    mean_by_seed: tuple[float, ...]
    over_seeds: Interval | None
    difference: Interval | None
    gap: Gap | None
    truncated: dict[str, float]

    def row(self, tasks: Sequence[str]) -> ScoreRow:
        """Its row in a table of held-out scores over `tasks`, without standard errors: the intervals show the noise."""
        rows = {task: len(self.model.by_seed[0].heldout[task]) for task in tasks}
        estimates = tuple(Estimate(self.heldout[task], None, rows[task]) for task in tasks)
        return ScoreRow(self.model.name, estimates, Estimate(self.mean, None, sum(rows.values())))


def model_statistics(result: ComparisonResult) -> list[ModelStatistics]:
    """The statistics of each model, in their order."""
    return [_statistics(result, model) for model in result.models]


def _statistics(result: ComparisonResult, model: ComparedModel) -> ModelStatistics:
    tasks = (*result.tasks, *result.kept)
    heldout = {task: float(model.heldout(task).mean()) for task in tasks}
    means = tuple(float(np.mean([np.mean(scores.heldout[task]) for task in result.tasks])) for scores in model.by_seed)
    reference = result.by_name[result.reference]
    return ModelStatistics(
        model=model,
        heldout=heldout,
        mean=float(np.mean([heldout[task] for task in result.tasks])),
        mean_by_seed=means,
        over_seeds=seeds_interval(means),
        difference=None if model is reference else difference(model, reference, result.tasks),
        gap=_gap(model, result.tasks),
        truncated={task: _mean_truncated(model.by_seed, task) for task in tasks},
    )


def difference(own: ComparedModel, other: ComparedModel, tasks: Sequence[str]) -> Interval:
    """The paired difference of two models on held-out rows, each row's score averaged over seeds."""
    return paired_bootstrap({task: own.heldout(task) for task in tasks}, {task: other.heldout(task) for task in tasks})


def _gap(model: ComparedModel, tasks: Sequence[str]) -> Gap | None:
    if any(task not in scores.search for scores in model.by_seed for task in tasks):
        return None
    searched = {task: _over_seeds([scores.search[task] for scores in model.by_seed]) for task in tasks}
    held = {task: Estimate.of(model.heldout(task).tolist()) for task in tasks}
    search, heldout = mean_of(searched, tasks), mean_of(held, tasks)
    return None if search is None or heldout is None else search_gap(search, heldout)


def _over_seeds(estimates: Sequence[Estimate]) -> Estimate:
    """Their mean. All seeds share their rows, so the mean of the errors is an upper bound for its error."""
    errors = [estimate.error for estimate in estimates if estimate.error is not None]
    error = float(np.mean(errors)) if len(errors) == len(estimates) else None
    return Estimate(float(np.mean([estimate.score for estimate in estimates])), error, estimates[0].samples)


def _mean_truncated(by_seed: Sequence[SeedScores], task: str) -> float:
    return float(np.mean([scores.truncated.get(task, 0.0) for scores in by_seed]))


def winners(result: ComparisonResult, models: Sequence[ModelStatistics]) -> list[ModelStatistics]:
    """Base, the best expert, the best static merge and each strategy's best model, sorted by held-out mean.

    The reference represents its strategy, even if another of its models is better.
    """
    first = [each for each in models if each.model.name == result.reference]
    best: dict[tuple[str, str | None], ModelStatistics] = {}
    for each in (*first, *sorted(models, key=lambda each: -each.mean)):
        found_by_strategy = each.model.kind in ("elite", "aggregate")
        best.setdefault(("strategy", each.model.strategy) if found_by_strategy else (each.model.kind, None), each)
    return sorted(best.values(), key=lambda each: -each.mean)


@dataclass(frozen=True, slots=True)
class HeadToHead:
    """The reference, and the model with the highest held-out mean that the reference's strategy did not find."""

    reference: str
    other: str
    difference: Interval


def head_to_head(result: ComparisonResult, models: Sequence[ModelStatistics]) -> HeadToHead | None:
    """The difference between the reference and the best other model; None if there is no other model."""
    own = result.by_name[result.reference]
    others = [
        each
        for each in models
        if each.model is not own and (own.strategy is None or each.model.strategy != own.strategy)
    ]
    if not others:
        return None
    other = max(others, key=lambda each: each.mean).model
    return HeadToHead(own.name, other.name, difference(own, other, result.tasks))


def elite_set_volumes(runs: Sequence[StrategyRunResult]) -> tuple[float, ...]:
    """The hypervolume of the held-out scores of each run's set of elites."""
    return tuple(hypervolume(run.elite_set) for run in runs)


def conclusions(result: ComparisonResult, best: HeadToHead | None) -> list[str]:
    """Sentences: the reference against the best other model, and the sets of elites by their hypervolume."""
    lines = []
    if best is not None:
        lines.append(f"{best.reference} against the best other model, {best.other}: {_interval_text(best.difference)}.")
    volumes = {name: float(np.mean(elite_set_volumes(runs))) for name, runs in result.runs_by_strategy.items()}
    if len(volumes) > 1:
        first, second = sorted(volumes, key=lambda name: -volumes[name])[:2]
        lines.append(
            f"{first} has the largest hypervolume on the {SPLIT_NAMES[result.opened.rows]}, {volumes[first]:.4f}; "
            f"{second} follows with {volumes[second]:.4f}."
        )
    return lines


def _interval_text(interval: Interval) -> str:
    return f"{interval.estimate:+.3f} (95%: {interval.low:+.3f} to {interval.high:+.3f})"
