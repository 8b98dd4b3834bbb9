"""A run's identity: its models, tasks and their rows, operators, seed, and number of evaluations in flight."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from cycleqd_merge.config.anchoring import without_folders
from cycleqd_merge.config.archives import archive_of
from cycleqd_merge.config.evolution import EvolutionConfig
from cycleqd_merge.config.fit import FitConfig
from cycleqd_merge.config.presets import first_versions, preset_name
from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.config.references import local_models, with_renamed_models
from cycleqd_merge.config.values import StrictConfig
from cycleqd_merge.config.variables import put_back
from cycleqd_merge.errors import RecipeError
from cycleqd_merge.journal.log import FORMAT as JOURNAL_FORMAT
from cycleqd_merge.journal.log import SAMPLING_SEMANTICS, Event, Journal, of_kind
from cycleqd_merge.run.differences import ORDER, differences
from cycleqd_merge.tasks.protocol import Split
from cycleqd_merge.tasks.targets import fitted_tasks

_COUNTED_SPLITS: tuple[Split, ...] = ("search", "confirm")
"""Splits whose number of rows is part of a task's identity."""

_RENAMED_SAMPLING = "evolution.sampling: 'binned' -> 'published'"
_SEMANTICS_OF_OTHER_SAMPLING = tuple(
    f"evolution.{SAMPLING_SEMANTICS}: {change}" for change in ("None -> 1", "1 -> None")
)
"""Differences that only repeat that of the sampling."""

if TYPE_CHECKING:  # identities are compared without torch
    from cycleqd_merge.evaluation.opened_recipe import OpenedRecipe
    from cycleqd_merge.tasks.suite import SuiteTask


def start_event(
    opened: OpenedRecipe,
    workers: int = 1,
    founders: Sequence[Event] = (),
    recorded: Event | None = None,
    written: bool = False,
) -> Event:
    """The journal's first event. Everything in it belongs to the run's identity.

    workers: the number of workers, which sets that of evaluations in flight. founders: genomes that the run starts from
    besides the experts, each with its known scores, by task. recorded: the start event of a run that is resumed: its
    number of evaluations in flight stays, and its models are identified by their contents, however they are named now.
    written: with `${NAME}` instead of the values of variables.
    """
    recipe, family, suite, groups = opened.recipe, opened.family, opened.suite, opened.groups
    evolution = recipe.evolution.model_copy(update={"archive": archive_of(recipe)})
    models = _models(recipe, written)
    strategy = _without_later_keys(_values(recipe.strategy, written))
    in_flight = evolution.children_in_flight(workers) if recorded is None else recorded["in_flight"]
    return {
        "event": "start",
        "format": JOURNAL_FORMAT,
        "base": family.base.digest,
        "experts": {expert.name: expert.digest for expert in family.experts},
        "models": models,
        "tasks": {task.name: task_identity(task, written) for task in suite},
        "strategy": with_renamed_models(without_folders(strategy), local_models(recipe)),
        "evolution": operators(evolution, written),
        "groups": list(groups.labels),
        "in_flight": evolution.in_flight or in_flight,
        "seeds": list(founders),
        **({} if recipe.fit is None else {"fit": fit_identity(recipe.fit, fitted_tasks(suite))}),
        "revisions": recipe.revisions if recorded is None else recorded.get("revisions"),
    }


def fit_identity(fit: FitConfig, tasks: Sequence[str]) -> dict[str, Any]:
    """The settings of a run's fits, and the weights of the losses of `tasks` in each.

    Raises:
        RecipeError: there is nothing to learn.
    """
    weights = fit.families(tasks)
    if not tasks:
        raise RecipeError("fit: no task offers answers to learn from (docs/tasks.md); remove `fit`")
    for number, each in enumerate(weights):
        if not each:
            raise RecipeError(
                f"fit.weights.{number}: every task that can be learned has weight 0 ({', '.join(tasks)}); raise one"
            )
    return {"settings": _fit_settings(fit), "weights": weights}


def _fit_settings(fit: FitConfig) -> dict[str, Any]:
    return fit.model_dump(mode="json", exclude={"weights", "width"})


def operators(evolution: EvolutionConfig, written: bool = False) -> dict[str, Any]:
    """The settings of the search that belong to a run's identity."""
    settings = _values(evolution, written, exclude={"generations", "seconds", "in_flight", "preset"})
    if evolution.archive is None or evolution.archive.kind == "grid":  # as before there was this key
        del settings["archive"]
    return {**settings, SAMPLING_SEMANTICS: 1} if evolution.sampling == "published" else settings


def as_of_today(recorded: Event) -> Event:
    """A recorded identity as this version writes it: later settings at the values that stand for the old behaviour,
    files by their names alone. Unknown settings stay as they were recorded.
    """
    now = dict(recorded)
    try:
        stated = {key: value for key, value in recorded["evolution"].items() if key != SAMPLING_SEMANTICS}
        now["evolution"] = operators(EvolutionConfig.model_validate(stated))
        if recorded.get("fit") is not None:
            settings = _fit_settings(FitConfig.model_validate(recorded["fit"]["settings"]))
            now["fit"] = {**recorded["fit"], "settings": settings}
    except (AttributeError, KeyError, ValidationError):
        return recorded
    if "strategy" in recorded:
        now["strategy"] = without_folders(recorded["strategy"])
    if "tasks" in recorded:
        now["tasks"] = {name: _task_as_of_today(task) for name, task in recorded["tasks"].items()}
    return now


def _task_as_of_today(recorded: dict[str, Any]) -> dict[str, Any]:
    if "definition" not in recorded:
        return recorded
    return {**recorded, "definition": without_folders(recorded["definition"])}


def _values(config: StrictConfig, written: bool, **options: Any) -> dict[str, Any]:
    """All values of a configuration. written: with `${NAME}` instead of the values of variables."""
    values = config.model_dump(mode="json", **options)
    return dict(put_back(config, values)[0]) if written else values


def _models(recipe: Recipe, written: bool) -> dict[str, Any]:
    """How models are opened; a chat template from a file counts by its content, not by its path."""
    models = _values(recipe.models, written, exclude={"trust_remote_code", "pickles"})
    if models["end_tokens"] is None:  # as before there was this key
        del models["end_tokens"]
    template = recipe.models.chat_template
    named = template is None or template == "base" or template in recipe.experts
    # a wrong name is reported when the tokenizer is opened
    if template is not None and not named and Path(template).is_file():
        models["chat_template"] = hashlib.sha256(Path(template).read_bytes()).hexdigest()[:16]
    return models


def task_identity(task: SuiteTask, written: bool = False) -> dict[str, Any]:
    """How a task is used and scored, its rows on each split, and its semantics version unless that is 0.

    written: with `${NAME}` instead of the values of variables.
    """
    identity = {
        **_values(task.use, written, exclude={"task", "name"}, exclude_none=True),
        "definition": without_folders(_definition(task, written)),
        "search": task.digest("search"),
        "heldout": task.digest("heldout"),
        "confirm": task.digest("confirm"),
        "rows": {rows: len(task.samples(rows)) for rows in _COUNTED_SPLITS},
    }
    return {**identity, "semantics": task.semantics} if task.semantics else identity


_AS_BEFORE = (("thinking", "keep"), ("fit", "answers"), ("noise", "fitted"))
"""Later keys of task definitions and strategies, with the values that stand for the behaviour before these keys."""


def _without_later_keys(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if (key, value) not in _AS_BEFORE}


def _definition(task: SuiteTask, written: bool) -> dict[str, Any]:
    return _without_later_keys(_values(task.definition, written, exclude={"description", "data"}))


def without_semantics(start: Event) -> Event:
    """An identity without its tasks' semantics versions, which have rules of their own; see `closed_run`."""
    if "tasks" not in start:
        return start
    tasks = {
        name: {key: value for key, value in task.items() if key != "semantics"} for name, task in start["tasks"].items()
    }
    return {**start, "tasks": tasks}


def require_same(journal: Journal, start: Event) -> None:
    """Check that the journal is empty or belongs to the run that `start` identifies.

    Raises:
        RecipeError: it belongs to a different run; every difference is listed.
    """
    if not journal.events:
        return
    found = differences(*map(without_semantics, (as_of_today(journal.events[0]), start)))
    found = [line for line in found if line not in _SEMANTICS_OF_OTHER_SAMPLING]
    if found == [_RENAMED_SAMPLING]:
        raise RecipeError(
            f"{journal.folder}: contains a run with `sampling: binned`, which version 0.1 called `published`; the "
            "recipe's `published` is now what the published code computes. Set `evolution.sampling: binned` to resume "
            "this run; --fresh starts a new one next to it"
        )
    if found:
        listed = "\n".join(f"  {line}" for line in found)
        only_order = all(line.startswith(ORDER) for line in found)
        restore = "; restore the recorded order to resume this one" if only_order else ""
        raise RecipeError(
            f"{journal.folder}: contains a different run; --fresh starts a new one next to it{restore}. "
            f"Differences:\n{listed}"
        )


def recorded_revisions(events: Sequence[Event]) -> dict[str, str]:
    """The commits of Hub ids that the run with these events resolved, when it started or in a later session."""
    sessions = (event["recipe"].get("revisions", {}) for event in of_kind(events, "session"))
    starts = (event.get("revisions") or {} for event in events[:1])
    return {name: sha for revisions in (*sessions, *starts) for name, sha in revisions.items()}


def recorded_presets(events: Sequence[Event]) -> dict[str, str]:
    """The version of the preset that the run with these events started with, by the preset's name."""
    stated = [event["recipe"].get("evolution", {}).get("preset") for event in of_kind(events, "session")]
    versions = first_versions()
    return {preset_name(each): versions.get(each, each) for each in reversed(stated) if each is not None}
