"""Models of a comparison that no run finds: learned from the answers that a strategy with fits recorded."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from cycleqd_merge.comparison.chosen_models import ChosenModel
from cycleqd_merge.comparison.results import Kind
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
from cycleqd_merge.merging.mergekit_references import model_reference, reference_value
from cycleqd_merge.run.learn import recorded_job
from cycleqd_merge.run.state import Run

log = logging.getLogger(__name__)
_KEY = ("strategy", "seed")


def learned_models(
    journal: Journal,
    settings: Mapping[str, LearnedConfig],
    runs: Sequence[tuple[PlannedRun, Run]],
    opened: OpenedRecipe,
    pool: SharedPool,
) -> list[ChosenModel]:
    """By strategy, the models learned from the runs of the first strategy with fits: one for each of its seeds, or one
    by RegMean, which draws nothing. Those that the journal records are not learned again.

    The pool is closed while one is learned, in this process; it opens again at its next use.

    Raises:
        RecipeError: a recorded model is missing.
        RunFailed: fine-tuning diverges.
    """
    chosen = []
    first = next((planned.strategy for planned, run in runs if run.fits), None)
    sources = [(planned, run) for planned, run in runs if planned.strategy == first]
    events = [*of_kind(journal.events, "fine-tuned"), *of_kind(journal.events, "regmean")]
    recorded = {tuple(event[key] for key in _KEY): event for event in events}
    for name, setting in settings.items():
        regmean = isinstance(setting, RegMeanConfig)
        for planned, run in sources[:1] if regmean else sources:
            folder = journal.folder / name / f"seed-{planned.seed}"
            event = recorded.get((name, planned.seed))
            if event is None:
                pool.close()
                shutil.rmtree(folder, ignore_errors=True)  # written, but not recorded
                log.info("%s, seed %d: learning", name, planned.seed)
                event = _learn(name, setting, planned, run, opened, folder)
                journal.append(event)
            elif not folder.is_dir():
                raise RecipeError(f"{folder}: this model is missing; restore it, or compare in a new folder (--output)")
            kind: Kind = "merge" if regmean else "fine-tuned"
            seed = None if regmean else planned.seed
            chosen.append(ChosenModel(name, kind, name, seed, _candidate(folder), {}, event["seconds"]))
    return chosen


def _learn(
    name: str, setting: LearnedConfig, planned: PlannedRun, run: Run, opened: OpenedRecipe, folder: Path
) -> Event:
    """Write a model; returns the event that records it."""
    settings = {"strategy": name, "seed": planned.seed, "settings": setting.model_dump(mode="json")}
    if isinstance(setting, RegMeanConfig):
        return {"event": "regmean", **settings, **_merge(setting, planned, run, opened, folder)}
    return {"event": "fine-tuned", **settings, **_train(name, setting, planned, run, opened, folder)}


def _merge(setting: RegMeanConfig, planned: PlannedRun, run: Run, opened: OpenedRecipe, folder: Path) -> Event:
    from cycleqd_merge.evaluation.regmean_model import regmean_model  # torch

    start = time.perf_counter()
    job = recorded_job(planned.folder, run)
    regmean_model(opened.materialiser(()), job, setting.off_diagonal, folder)
    return {"seconds": round(time.perf_counter() - start, 3)}


def _train(
    name: str, setting: FineTuningConfig, planned: PlannedRun, run: Run, opened: OpenedRecipe, folder: Path
) -> Event:
    from cycleqd_merge.evaluation.fine_tuning import fine_tuned_model  # torch

    length = Length(setting.steps, setting.seconds or (None if setting.steps else run.fit_seconds))
    job = recorded_job(planned.folder, run, setting.start)
    found = fine_tuned_model(opened.materialiser(()), job, setting.learning_rate, length, folder)
    if not math.isfinite(found.losses[-1]):
        shutil.rmtree(folder, ignore_errors=True)
        raise RunFailed(
            f"strategies.{name}: fine-tuning diverges at step {len(found.losses)}; compare in a new folder (--output) "
            f"with a lower fine_tuning.learning_rate than {setting.learning_rate:g}"
        )
    return {
        "steps": len(found.losses),
        "loss": [found.losses[0], found.losses[-1]],
        "tokens": found.tokens,
        "seconds": round(found.seconds, 3),
    }


def _candidate(folder: Path) -> MergekitConfiguration:
    """The model in a folder alone, which mergekit reads without changing a bit."""
    model = reference_value(model_reference(str(folder.absolute())))
    record = {"merge_method": "linear", "models": [{"model": model, "parameters": {"weight": 1.0}}], "dtype": "float32"}
    return MergekitConfiguration(yaml.safe_dump(record, sort_keys=False))
