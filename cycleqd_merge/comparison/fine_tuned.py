"""Fine-tuned models of a comparison: trained on what its fits learned from, for as long as these took."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from cycleqd_merge.comparison.chosen_models import ChosenModel
from cycleqd_merge.comparison.shared_pool import SharedPool
from cycleqd_merge.comparison.strategy_runs import PlannedRun
from cycleqd_merge.config.fine_tuning import FineTuningConfig
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


def fine_tuned_models(
    journal: Journal,
    settings: Mapping[str, FineTuningConfig],
    runs: Sequence[tuple[PlannedRun, Run]],
    opened: OpenedRecipe,
    pool: SharedPool,
) -> list[ChosenModel]:
    """A model for each fine-tuning strategy and each seed of the first strategy with fits; those that the journal
    records are not trained again.

    The pool is closed while one is trained, in this process; it opens again at its next use.

    Raises:
        RecipeError: a recorded model is missing.
    """
    chosen = []
    source = next((planned.strategy for planned, run in runs if run.fits), None)
    recorded = {tuple(event[key] for key in _KEY): event for event in of_kind(journal.events, "fine-tuned")}
    for name, setting in settings.items():
        for planned, run in runs:
            if planned.strategy != source:
                continue
            folder = journal.folder / name / f"seed-{planned.seed}"
            if (name, planned.seed) not in recorded:
                pool.close()
                shutil.rmtree(folder, ignore_errors=True)  # written, but not recorded
                journal.append(_train(name, setting, planned, run, opened, folder))
            elif not folder.is_dir():
                raise RecipeError(f"{folder}: this model is missing; restore it, or compare in a new folder (--output)")
            chosen.append(ChosenModel(name, "fine-tuned", name, planned.seed, _candidate(folder), {}))
    return chosen


def _train(
    name: str, setting: FineTuningConfig, planned: PlannedRun, run: Run, opened: OpenedRecipe, folder: Path
) -> Event:
    from cycleqd_merge.evaluation.fine_tuning import fine_tuned_model  # torch

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


def _candidate(folder: Path) -> MergekitConfiguration:
    """The model in a folder alone, which mergekit reads without changing a bit."""
    model = reference_value(model_reference(str(folder.absolute())))
    record = {"merge_method": "linear", "models": [{"model": model, "parameters": {"weight": 1.0}}], "dtype": "float32"}
    return MergekitConfiguration(yaml.safe_dump(record, sort_keys=False))
