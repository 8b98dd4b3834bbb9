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
from cycleqd_merge.comparison.statistics import Gap, hypervolume, rows_and_seeds_interval, search_gap, seeds_interval
from cycleqd_merge.journal.measured import Estimate
from cycleqd_merge.report.paired import Interval, paired_bootstrap
from cycleqd_merge.report.scores import ScoreRow, mean_of
from cycleqd_merge.tasks.protocol import SPLIT_NAMES


@dataclass(frozen=True, slots=True)
class ModelStatistics:
    """A model's held-out scores with their statistics.

    heldout: by task, averaged over rows and seeds. mean: over the tasks that count. mean_by_seed: that mean for each
    seed, with `over_seeds` its interval. difference: from the reference over rows, positive if this model is better;
    None for the reference itself. over_rows_and_seeds: the same difference with its interval over both; None if it has
    none, see `rows_and_seeds_interval`. gap: from search to held-out scores; None if there are no search scores.
    truncated: by task, averaged over seeds.
    """

    model: ComparedModel
    heldout: dict[str, float]
    mean: float
    mean_by_seed: tuple[float, ...]
    over_seeds: Interval | None
    difference: Interval | None
    over_rows_and_seeds: Interval | None
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
    means = _mean_by_seed(model, result.tasks)
    reference = result.by_name[result.reference]
    over_rows = None if model is reference else difference(model, reference, result.tasks)
    return ModelStatistics(
        model=model,
        heldout=heldout,
        mean=float(np.mean([heldout[task] for task in result.tasks])),
        mean_by_seed=means,
        over_seeds=seeds_interval(means),
        difference=over_rows,
        over_rows_and_seeds=over_rows and _over_rows_and_seeds(over_rows, model, reference, result.tasks),
        gap=_gap(model, result.tasks),
        truncated={task: _mean_truncated(model.by_seed, task) for task in tasks},
    )


def difference(own: ComparedModel, other: ComparedModel, tasks: Sequence[str]) -> Interval:
    """The paired difference of two models over held-out rows, each row's score averaged over seeds."""
    return paired_bootstrap({task: own.heldout(task) for task in tasks}, {task: other.heldout(task) for task in tasks})


def _mean_by_seed(model: ComparedModel, tasks: Sequence[str]) -> tuple[float, ...]:
    return tuple(float(np.mean([np.mean(scores.heldout[task]) for task in tasks])) for scores in model.by_seed)


def _over_rows_and_seeds(
    over_rows: Interval, own: ComparedModel, other: ComparedModel, tasks: Sequence[str]
) -> Interval | None:
    ours, theirs = (_mean_by_seed(model, tasks) if model.seeds else () for model in (own, other))
    return rows_and_seeds_interval(over_rows, ours, theirs)


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
        found_by_strategy = each.model.kind in ("elite", "aggregate", "fine-tuned")
        best.setdefault(("strategy", each.model.strategy) if found_by_strategy else (each.model.kind, None), each)
    return sorted(best.values(), key=lambda each: -each.mean)


@dataclass(frozen=True, slots=True)
class HeadToHead:
    """The reference, and the model with the highest held-out mean that the reference's strategy did not find.

    difference: over rows. over_rows_and_seeds: see `rows_and_seeds_interval`. one_seed: whether either model is the
    only one that its strategy found.
    """

    reference: str
    other: str
    difference: Interval
    over_rows_and_seeds: Interval | None = None
    one_seed: bool = False

    @property
    def verdict(self) -> str:
        """Whether the reference is better, by the wider interval."""
        decisive = self.over_rows_and_seeds or self.difference
        if decisive.holds_zero:
            return "not distinguishable"
        better = "better" if decisive.low > 0 else "worse"
        return f"{better}, as far as one seed can tell" if self.one_seed else better


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
    over_rows = difference(own, other, result.tasks)
    both = _over_rows_and_seeds(over_rows, own, other, result.tasks)
    return HeadToHead(own.name, other.name, over_rows, both, 1 in (own.seeds, other.seeds))


def elite_set_volumes(runs: Sequence[StrategyRunResult]) -> tuple[float, ...]:
    """The hypervolume of the held-out scores of each run's set of elites."""
    return tuple(hypervolume(run.elite_set) for run in runs)


def largest_volumes(result: ComparisonResult) -> list[tuple[str, tuple[float, ...]]]:
    """The strategies by the mean hypervolume of their sets of elites, the largest first, with that of each seed."""
    volumes = {name: elite_set_volumes(runs) for name, runs in result.runs_by_strategy.items()}
    return sorted(volumes.items(), key=lambda item: -float(np.mean(item[1])))


def conclusions(result: ComparisonResult, best: HeadToHead | None) -> list[str]:
    """Sentences: the reference against the best other model, and the sets of elites by their hypervolume."""
    lines = []
    if best is not None:
        against = f"{best.reference} against the best other model, {best.other}"
        lines.append(f"{against}: {_difference_text(best)}: {best.verdict}.")
    volumes = largest_volumes(result)
    if len(volumes) > 1:
        (first, most), (second, less) = volumes[:2]
        lines.append(
            f"{first} has the largest hypervolume on the {SPLIT_NAMES[result.opened.rows]}, {np.mean(most):.4f}; "
            f"{second} follows with {np.mean(less):.4f}."
        )
    return lines


def _difference_text(best: HeadToHead) -> str:
    both = best.over_rows_and_seeds
    rows = f"{best.difference.estimate:+.3f} (95%: {_ends(best.difference)} over rows"
    return f"{rows})" if both is None else f"{rows}, {_ends(both)} over rows and seeds)"


def _ends(interval: Interval) -> str:
    return f"{interval.low:+.3f} to {interval.high:+.3f}"
