"""`compare` from start to end: runs, the choice of models, their scores on the final split, the result."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from cycleqd_merge.comparison.chosen_models import ChosenModel, choose_models, elite_sets
from cycleqd_merge.comparison.curves import curve, filled_archives
from cycleqd_merge.comparison.final_scores import FinalProgress, FinalScores, open_split, score_candidates, unscored
from cycleqd_merge.comparison.learned_models import learned_models
from cycleqd_merge.comparison.named_strategies import learned_strategies
from cycleqd_merge.comparison.output_files import write_outputs
from cycleqd_merge.comparison.results import (
    ComparedModel,
    ComparisonResult,
    RowCount,
    SeedScores,
    SplitOpening,
    StrategyRunResult,
)
from cycleqd_merge.comparison.strategy_runs import (
    Budget,
    ObserverFactory,
    PlannedRun,
    all_complete,
    check_runs,
    complete_runs,
    named_with_seeds,
    open_shared_pool,
    plan_runs,
)
from cycleqd_merge.comparison.tables import ComparisonReport, comparison_report
from cycleqd_merge.config.loading import loaded_recipe
from cycleqd_merge.config.presets import first_versions, newest_versions
from cycleqd_merge.config.recipe import Recipe, task_name
from cycleqd_merge.errors import RecipeError, RunFailed
from cycleqd_merge.evolution.archive import Archive, Bounds, Scores
from cycleqd_merge.evolution.candidate import Candidate, candidate_digest
from cycleqd_merge.journal.log import FORMAT, JOURNAL_FILE, Event, Journal, complete_events, failed, opened_journal
from cycleqd_merge.merging.download import fetch
from cycleqd_merge.merging.revisions import pin
from cycleqd_merge.run.differences import differences, order_difference
from cycleqd_merge.run.interruption import terminable
from cycleqd_merge.run.observer import Observer
from cycleqd_merge.run.state import Run
from cycleqd_merge.strategies.factory import ordered_tasks
from cycleqd_merge.tasks.equal_rows import seen_among
from cycleqd_merge.tasks.protocol import Split
from cycleqd_merge.tasks.suite import Suite

CompletedRuns = Sequence[tuple[PlannedRun, Run]]
_SETTINGS = {
    "searches": "strategies",
    "budget": "budget",
    "budget_seconds": "budget in seconds",
    "seeds": "seeds",
    "own_seeds": "seeds of single strategies",
    "rows": "split",
    "first": "first seed",
}
"""Names of a comparison's settings in messages, by their keys in its journal."""


@dataclass(frozen=True)
class FinishedComparison:
    """A comparison's folder, its result, its tables, and the files written to the folder."""

    folder: Path
    result: ComparisonResult
    report: ComparisonReport
    files: tuple[Path, ...]


def _unobserved(planned: PlannedRun, alone: bool) -> AbstractContextManager[Observer]:
    return nullcontext(Observer())


def _no_progress(split: str, done: int, total: int) -> None:
    pass


def compare(
    recipe: Recipe | str | PathLike[str],
    strategies: Sequence[str],
    budget: int,
    seeds: int,
    observers: ObserverFactory = _unobserved,
    progress: FinalProgress = _no_progress,
    *,
    output: str | PathLike[str] | None = None,
    rows: Split = "heldout",
    budget_seconds: float | None = None,
    max_hours: float | None = None,
) -> FinishedComparison:
    """Benchmark strategies against each other and static merges; resumes an existing comparison.

    The result, its tables and figures are written to the comparison's folder, see `write_outputs`.

    recipe: a loaded one, or the path of its file. strategies: names (see docs/compare.md); all models are
    compared with the best-mean elite of the first; `name:3` has three seeds whatever `seeds` is. budget: children that
    each run evaluates. seeds: runs per strategy.
    observers: creates the observer of each run. progress: called when a model has been scored on the final split.
    output: the comparison's folder, by default the recipe's output plus `-compared`. rows: the split that models are
    scored on at the end; `confirm` to tune, which leaves the held-out split unopened. max_hours: stop after this many
    hours; call again to resume. budget_seconds: a run also ends once its workers were busy with fits and children for
    this many seconds; see `EvolutionConfig.seconds`.

    Raises:
        UserError: the recipe or a name cannot be used, or the folder holds a different comparison.
        Interrupted: the comparison was ended early and can be resumed.
        RunFailed: the comparison cannot continue.
    """
    deadline = None if max_hours is None else time.monotonic() + 3600 * max_hours
    recipe = loaded_recipe(recipe)
    folder = Path(output or f"{recipe.output}-compared")
    presets = _preset_versions(folder)
    strategies, own_seeds = named_with_seeds(strategies)
    length = Budget(budget, budget_seconds)
    plan_runs(recipe, strategies, length, seeds, folder, rows, presets, own_seeds)  # before any download
    with terminable(), opened_journal(folder) as journal:
        settings = {"searches": list(strategies), "budget": budget, "seeds": seeds, "rows": rows}
        if budget_seconds is not None:
            settings["budget_seconds"] = budget_seconds
        if own_seeds:
            settings["own_seeds"] = own_seeds
        recipe = _start(journal, recipe, {**settings, "first": recipe.evolution.seed}, presets)
        planned = plan_runs(recipe, strategies, length, seeds, folder, rows, presets, own_seeds)
        fetch(recipe.pinned_models())
        with open_shared_pool(planned) as (pool, opened):
            changed = check_runs(planned, opened, rows)
            _require_comparable(changed, all_complete(planned), folder)
            runs = list(zip(planned, complete_runs(planned, pool, observers, deadline), strict=True))
            chosen, sets = choose_models(runs), elite_sets(runs)
            chosen += learned_models(journal, learned_strategies(recipe, strategies), runs, opened, pool)
            opening = open_split(journal, _digests(chosen, planned, sets), rows)
            candidates = [*(each.candidate for each in chosen), *(each for elites in sets for each in elites)]
            _require_comparable(changed, not unscored(journal, candidates), folder)
            scored = score_candidates(journal, pool, candidates, rows, progress, deadline)
        result = _result(runs, chosen, sets, scored, opening, row_counts(opened.suite, rows))
        report = comparison_report(result)
        files = write_outputs(result, report, _archives(runs), folder)
        return FinishedComparison(folder, result, report, tuple(files))


def _preset_versions(folder: Path) -> dict[str, str]:
    """The version of every preset, by name, that strategies use: those of the existing comparison, or the newest."""
    events = complete_events(folder) if (folder / JOURNAL_FILE).is_file() else []
    return {**first_versions(), **events[0].get("presets", {})} if events else newest_versions()


def _require_comparable(changed: Sequence[str], complete: bool, folder: Path) -> None:
    """Refuse to add scores to a comparison that has scores of other semantics versions.

    Raises:
        RecipeError: something changed and is not complete.
    """
    if changed and not complete:
        raise RecipeError(
            f"{folder}: cannot be resumed: new scores would not be comparable ({', '.join(changed)}); compare again in "
            "a different folder (--output)"
        )


def _start(journal: Journal, recipe: Recipe, settings: Mapping[str, Any], presets: Mapping[str, str]) -> Recipe:
    """Record the comparison's settings, or check that the journal has the same; returns the recipe with its models'
    commits. presets: recorded as far as they are not the first versions.

    Raises:
        RecipeError: the journal is that of a different comparison.
    """
    names = {"experts": list(recipe.experts), "tasks": [task_name(use) for use in ordered_tasks(recipe)]}
    if not journal.events:
        recipe = pin(recipe)
        newer = dict(presets.items() - first_versions().items())
        start: Event = {"event": "comparison", "format": FORMAT, **settings, **names, "revisions": recipe.revisions}
        journal.append({**start, "presets": newer} if newer else start)
        return recipe
    recorded = {name: journal.events[0].get(key) for key, name in _SETTINGS.items()}
    changed = differences(recorded, {name: settings.get(key) for key, name in _SETTINGS.items()})
    for (
        key,
        now,
    ) in names.items():  # digests of genomes do not name the experts; the rest of them is checked by each run
        changed += order_difference(key, journal.events[0].get(key, now), now)
    if changed:
        raise RecipeError(
            f"{journal.folder}: holds a different comparison ({'; '.join(changed)}); use a different folder (--output)"
        )
    return pin(recipe, journal.events[0]["revisions"])


def _digests(
    chosen: Sequence[ChosenModel], planned: Sequence[PlannedRun], sets: Sequence[Sequence[Candidate]]
) -> dict[str, list[str]]:
    """Digests of the candidates to score, by model, and by run those of its set of elites."""
    digests: dict[str, list[str]] = {}
    for model in chosen:
        digests.setdefault(model.name, []).append(model.digest)
    for run, elites in zip(planned, sets, strict=True):
        key = f"{run.strategy} seed {run.seed} family"  # a key of the journal: it cannot change
        digests[key] = [candidate_digest(each) for each in elites]
    return digests


def _result(
    runs: CompletedRuns,
    chosen: Sequence[ChosenModel],
    sets: Sequence[Sequence[Candidate]],
    scored: Mapping[str, FinalScores | None],
    opening: SplitOpening,
    rows: dict[str, RowCount],
) -> ComparisonResult:
    (first_planned, first), *_ = runs
    objectives = first.objectives
    models = [(model, scores) for model in chosen if (scores := scored[model.digest]) is not None]
    reference = next((model.name for model, _ in models if model.strategy == first_planned.strategy), None)
    if reference is None:
        raise RunFailed(f"no model of {first_planned.strategy} could be scored at the end; the journal has the errors")
    return ComparisonResult(
        tasks=tuple(objectives),
        kept=tuple(first.tasks[len(objectives) :]),
        rows=rows,
        reference=reference,
        opened=opening,
        models=tuple(_compared_model(seeds) for seeds in _by_name(models)),
        runs=tuple(
            _run_result(planned, run, [scored[candidate_digest(each)] for each in elites], first)
            for (planned, run), elites in zip(runs, sets, strict=True)
        ),
        unscored=tuple(dict.fromkeys(model.name for model in chosen if scored[model.digest] is None)),
    )


def row_counts(suite: Suite, final: Split) -> dict[str, RowCount]:
    """By task, the rows of the search split and of the final split, and how many of the latter are not new."""
    counts = {}
    for task in suite:
        seen = [*task.samples("search"), *(task.samples("confirm") if final == "heldout" else ())]
        held_out = task.samples(final)
        known = seen_among(task.task, held_out, seen)
        counts[task.name] = RowCount(len(task.samples("search")), len(held_out), len(known))
    return counts


ScoredModel = tuple[ChosenModel, FinalScores]


def _by_name(models: Sequence[ScoredModel]) -> Iterator[list[ScoredModel]]:
    for name in dict.fromkeys(model.name for model, _ in models):
        yield [(model, scores) for model, scores in models if model.name == name]


def _compared_model(seeds: Sequence[ScoredModel]) -> ComparedModel:
    by_seed = tuple(
        SeedScores(
            model.seed,
            model.digest,
            dict(model.search),
            dict(scores.scores),
            dict(scores.truncated),
            model.seconds,
        )
        for model, scores in seeds
    )
    first, _ = seeds[0]
    return ComparedModel(first.name, first.kind, first.strategy, by_seed)


def _archives(runs: CompletedRuns) -> dict[str, list[Archive]]:
    """By strategy, the archives that its first run fills, all in the bounds of the reference's first run."""
    archives: dict[str, list[Archive]] = {}
    first = runs[0][1]
    for planned, run in runs:
        if planned.strategy not in archives:
            archives[planned.strategy] = filled_archives(
                _scores(run.results), *_grid(first), first.search.space.capacity
            )
    return archives


def _scores(results: Sequence[Event]) -> list[Scores | None]:
    return [None if event["scores"] is None else tuple(event["scores"]) for event in results]


def _grid(run: Run) -> tuple[Bounds, list[int]]:
    """Bounds and bins of a run's archives."""
    assert run.search.bounds is not None  # the run is complete
    return run.search.bounds, [objective.bins for objective in run.search.objectives]


def _run_result(planned: PlannedRun, run: Run, elites: Sequence[FinalScores | None], first: Run) -> StrategyRunResult:
    """elites: final scores of its set of elites. first: the run whose archives' bounds are used for all."""
    scores = _scores(run.results)
    return StrategyRunResult(
        strategy=planned.strategy,
        seed=planned.seed,
        evaluations=len(scores),
        failures=sum(map(failed, run.results)),
        censored=sum(bool(event.get("censored")) for event in run.results),
        seconds=run.busy_seconds + sum(sum(event.get("seconds") or ()) for event in run.confirmations.values()),
        fit_seconds=run.fit_seconds,
        curve=curve(scores, *_grid(first), capacity=first.search.space.capacity),
        elite_set=tuple(
            tuple(sum(model.scores[task]) / len(model.scores[task]) for task in first.objectives)
            for model in elites
            if model is not None
        ),
    )
