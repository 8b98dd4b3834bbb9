"""The models to score on the final split, chosen by what the runs recorded, before that split is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cycleqd_merge.comparison.results import Kind
from cycleqd_merge.comparison.statistics import hypervolume
from cycleqd_merge.comparison.strategy_runs import PlannedRun
from cycleqd_merge.evolution.candidate import Candidate, candidate_digest
from cycleqd_merge.journal.measured import Estimate
from cycleqd_merge.report.scores import search_estimates
from cycleqd_merge.run.elites import choose, pareto
from cycleqd_merge.run.state import Run

ELITE_SET_SIZE = 16
"""Maximum number of elites per run that count for the hypervolume on the final split."""


@dataclass(frozen=True)
class ChosenModel:
    """A model to score. strategy, seed: of the run that found it; None for a model that no run found.

    name: models of several seeds share it. search: by task, the estimate on the search split; empty if there is none.
    seconds: that it took to learn the model outside of any run.
    """

    name: str
    kind: Kind
    strategy: str | None
    seed: int | None
    candidate: Candidate
    search: Mapping[str, Estimate]
    seconds: float = 0.0

    @property
    def digest(self) -> str:
        """The candidate's digest."""
        return candidate_digest(self.candidate)


def choose_models(runs: Sequence[tuple[PlannedRun, Run]]) -> list[ChosenModel]:
    """Base, experts and their plain mean; the best configuration of each static merge method; the best-mean elite and
    the aggregate of every other run."""
    chosen = _models_without_search(runs[0][1])
    for planned, run in runs:
        if planned.recipe.strategy.kind == "mergekit":
            chosen += _best_by_method(planned, run)
        else:
            chosen += _best_of_run(planned, run)
    return chosen


def elite_sets(runs: Sequence[tuple[PlannedRun, Run]]) -> list[list[Candidate]]:
    """By run, the elites that no other elite dominates on the search split; if there are too many, those that add the
    most hypervolume, chosen one after another."""
    return [[run.candidate(number) for number in _elite_set(run)] for _, run in runs]


def _elite_set(run: Run) -> list[int]:
    objectives = len(run.objectives)
    left = {number: run.scores(number)[:objectives] for number in pareto(run)}
    chosen: list[int] = []
    points: list[tuple[float, ...]] = []
    while left and len(chosen) < ELITE_SET_SIZE:
        best = max(left, key=lambda number: (hypervolume([*points, left[number]]), -number))
        chosen.append(best)
        points.append(left.pop(best))
    return sorted(chosen)


def _models_without_search(run: Run) -> list[ChosenModel]:
    chosen = [ChosenModel("base", "base", None, None, choose(run, "base").candidate, {})]
    for number, expert in enumerate(run.experts):
        name = f"expert:{expert}"
        candidate = choose(run, name).candidate
        chosen.append(ChosenModel(name, "expert", None, None, candidate, search_estimates(run, number)))
    return [*chosen, ChosenModel("mean", "merge", None, None, choose(run, "mean").candidate, {})]


def _best_by_method(planned: PlannedRun, run: Run) -> list[ChosenModel]:
    """The configuration of each merge method with the best mean score, among those that reach every floor if any does;
    ties go to the first. Static merges of a user-defined strategy carry its name."""
    tried: dict[str, list[int]] = {}
    for number, step in enumerate(run.steps):
        if "merge" in step and run.results[number]["scores"] is not None:
            tried.setdefault(step["merge"], []).append(number)
    chosen = []
    for method, numbers in tried.items():
        candidates = [number for number in numbers if run.search.meets_floors(run.scores(number))] or numbers
        best = max(candidates, key=lambda number: (run.mean(run.scores(number)), -number))
        name = method if planned.strategy == "mergekit" else f"{planned.strategy} {method}"
        name += f" (best of {len(numbers)})" if len(numbers) > 1 else ""
        estimates = search_estimates(run, best)
        chosen.append(ChosenModel(name, "merge", planned.strategy, None, run.candidate(best), estimates))
    return chosen


def _best_of_run(planned: PlannedRun, run: Run) -> list[ChosenModel]:
    strategy, seed = planned.strategy, planned.seed
    best = run.best_mean()
    estimates = search_estimates(run, best)
    chosen = [ChosenModel(f"{strategy} best-mean", "elite", strategy, seed, run.candidate(best), estimates)]
    if run.has_aggregate:
        chosen.append(ChosenModel(f"{strategy} aggregate", "aggregate", strategy, seed, run.aggregate(), {}))
    return chosen
