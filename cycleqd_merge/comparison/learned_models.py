"""Models of a comparison that no run finds: learned from the answers that a strategy with fits recorded."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import yaml

from cycleqd_merge.comparison.chosen_models import ChosenModel
from cycleqd_merge.comparison.shared_pool import SharedPool
from cycleqd_merge.comparison.strategy_runs import PlannedRun
from cycleqd_merge.config.fine_tuning import FineTuningConfig
from cycleqd_merge.config.regmean import RegMeanConfig
from cycleqd_merge.config.strategies import LearnedConfig
from cycleqd_merge.errors import RecipeError, RunFailed
from cycleqd_merge.evaluation.opened_recipe import OpenedRecipe
from cycleqd_merge.evolution.candidate import MergekitConfiguration
from cycleqd_merge.fitting.fine_tuning import Length
from cycleqd_merge.journal.log import Event, Journal, of_kind
from cycleqd_merge.journal.measured import Estimate
from cycleqd_merge.merging.mergekit_references import model_reference, reference_value
from cycleqd_merge.run.learn import recorded_job
from cycleqd_merge.run.state import Run
from cycleqd_merge.strategies.protocol import Proposal

log = logging.getLogger(__name__)
Source = tuple[PlannedRun, Run]
"""A run whose recorded answers a model is learned from."""


def learned_models(
    journal: Journal,
    settings: Mapping[str, LearnedConfig],
    runs: Sequence[Source],
    opened: OpenedRecipe,
    pool: SharedPool,
) -> list[ChosenModel]:
    """By strategy, the models learned from the runs of the first strategy with fits: one for each of its seeds, or one
    by RegMean, which draws nothing. Those that the journal records are not learned again.

    The pool is closed while one is learned, in this process; it opens again at its next use.

    Raises:
        RecipeError: a recorded model is missing.
        RunFailed: fine-tuning diverges, or no merge by RegMean can be evaluated.
    """
    chosen = list[ChosenModel]()
    first = next((planned.strategy for planned, run in runs if run.fits), None)
    sources = [source for source in runs if source[0].strategy == first]
    for name, setting in settings.items():
        if isinstance(setting, RegMeanConfig):
            chosen += [_merged(journal, name, setting, source, opened, pool) for source in sources[:1]]
        else:
            chosen += [_fine_tuned(journal, name, setting, source, opened, pool) for source in sources]
    return chosen


def _fine_tuned(
    journal: Journal, name: str, setting: FineTuningConfig, source: Source, opened: OpenedRecipe, pool: SharedPool
) -> ChosenModel:
    seed = source[0].seed
    folder = journal.folder / name / f"seed-{seed}"
    event = _learned_once(
        journal, "fine-tuned", name, seed, folder, pool, lambda: _train(name, setting, source, opened, folder)
    )
    return ChosenModel(name, "fine-tuned", name, seed, _candidate(folder), {}, event["seconds"])


def _train(name: str, setting: FineTuningConfig, source: Source, opened: OpenedRecipe, folder: Path) -> Event:
    from cycleqd_merge.evaluation.fine_tuning import fine_tuned_model  # torch

    planned, run = source
    length = Length(setting.steps, setting.seconds or (None if setting.steps else run.fit_seconds))
    job = recorded_job(planned.folder, run, setting.start)
    log.info("%s, seed %d: training", name, planned.seed)
    found = fine_tuned_model(opened.materialiser(()), job, setting.learning_rate, length, folder)
    if not math.isfinite(found.losses[-1]):
        shutil.rmtree(folder, ignore_errors=True)
        raise RunFailed(
            f"strategies.{name}: fine-tuning diverges at step {len(found.losses)}; compare in a new folder (--output) "
            f"with a lower fine_tuning.learning_rate than {setting.learning_rate:g}"
        )
    return {
        "event": "fine-tuned",
        "strategy": name,
        "seed": planned.seed,
        "settings": setting.model_dump(mode="json"),
        "steps": len(found.losses),
        "loss": [found.losses[0], found.losses[-1]],
        "tokens": found.tokens,
        "seconds": round(found.seconds, 3),
    }


def _merged(
    journal: Journal, name: str, setting: RegMeanConfig, source: Source, opened: OpenedRecipe, pool: SharedPool
) -> ChosenModel:
    planned, _ = source
    folders = {scale: journal.folder / name / f"scale-{scale:g}" for scale in setting.scales}
    event = _learned_once(
        journal,
        "regmean",
        name,
        planned.seed,
        journal.folder / name,
        pool,
        lambda: _merge(name, setting, source, opened, pool, folders),
    )
    for scale, folder in folders.items():
        if scale != event["scale"]:
            shutil.rmtree(folder, ignore_errors=True)
    search = {task: Estimate(**values) for task, values in event["search"].items()}
    label = f"{name} (best of {len(folders)})" if len(folders) > 1 else name
    return ChosenModel(label, "merge", name, None, _candidate(folders[event["scale"]]), search, event["seconds"])


def _merge(
    name: str,
    setting: RegMeanConfig,
    source: Source,
    opened: OpenedRecipe,
    pool: SharedPool,
    folders: Mapping[float, Path],
) -> Event:
    """Merge the experts, score the merge at every scale on the search split, and record the best."""
    from cycleqd_merge.evaluation.regmean_model import write_regmean_models  # torch

    (planned, run), start = source, time.perf_counter()
    log.info("%s: merging", name)
    write_regmean_models(opened.materialiser(()), recorded_job(planned.folder, run), setting.off_diagonal, folders)
    seconds = time.perf_counter() - start
    for number, folder in enumerate(folders.values()):
        pool.submit(Proposal(number, _candidate(folder), {}))
    found, error = {}, ""
    for _ in folders:
        finished = pool.next()
        if finished.evaluation is None:
            error = finished.error or ""
        else:
            found[finished.number] = finished.evaluation
            seconds += finished.evaluation.load_seconds + finished.evaluation.score_seconds
    if not found:
        raise RunFailed(f"{name}: no merge could be evaluated, the last with: {error}")
    valid = [number for number, each in found.items() if run.search.meets_floors(each.scores)] or list(found)
    best = max(valid, key=lambda number: (run.mean(found[number].scores), -number))
    results = found[best].results.items()
    search = {task: Estimate.of([row.score for row in each.outcomes], each.truncated) for task, each in results}
    return {
        "event": "regmean",
        "strategy": name,
        "seed": planned.seed,
        "settings": setting.model_dump(mode="json"),
        "scale": list(folders)[best],
        "search": {task: asdict(estimate) for task, estimate in search.items()},
        "seconds": round(seconds, 3),
    }


def _learned_once(
    journal: Journal, kind: str, name: str, seed: int, folder: Path, pool: SharedPool, learn: Callable[[], Event]
) -> Event:
    """The event of a model that was learned before; otherwise it is learned into the folder, and recorded."""
    for event in of_kind(journal.events, kind):
        if (event["strategy"], event["seed"]) == (name, seed):
            return event
    pool.close()
    shutil.rmtree(folder, ignore_errors=True)  # written, but not recorded
    event = learn()
    journal.append(event)
    return event


def _candidate(folder: Path) -> MergekitConfiguration:
    """The model in a folder alone, which mergekit reads without changing a bit.

    Raises:
        RecipeError: it is missing.
    """
    if not folder.is_dir():
        raise RecipeError(f"{folder}: this model is missing; restore it, or compare in a new folder (--output)")
    model = reference_value(model_reference(str(folder.absolute())))
    record = {"merge_method": "linear", "models": [{"model": model, "parameters": {"weight": 1.0}}], "dtype": "float32"}
    return MergekitConfiguration(yaml.safe_dump(record, sort_keys=False))
