"""Everything about a run that can be known before its first evaluation: every error at once, and estimates."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from math import prod
from os import PathLike
from pathlib import Path

from rich.filesize import decimal
from safetensors import SafetensorError, safe_open

from cycleqd_merge.config.archives import cells, novelty_capacity, require_archives, with_recorded_archive
from cycleqd_merge.config.loading import fix_presets, loaded_recipe, require_variables
from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.errors import ModelError, RecipeError, UserError, first_line
from cycleqd_merge.evaluation.engines.prompts import tokenizer_notices
from cycleqd_merge.evaluation.failures import single_cause
from cycleqd_merge.evaluation.opened_recipe import OpenedRecipe
from cycleqd_merge.journal.fits import founders_fits, stated_fits
from cycleqd_merge.journal.log import JOURNAL_FILE, Event, complete_events, of_kind, opened_journal
from cycleqd_merge.merging.adapter import Adapter
from cycleqd_merge.merging.bases import missing_bases, prepare_bases
from cycleqd_merge.merging.checkpoint import Checkpoint
from cycleqd_merge.merging.checks import check_family
from cycleqd_merge.merging.family import ModelFamily, open_base, open_expert, united
from cycleqd_merge.merging.fit_files import RUN_FITS, keep_fits, require_fits, scaled_experts
from cycleqd_merge.merging.groups import Groups
from cycleqd_merge.merging.merge_grid import static_merges
from cycleqd_merge.merging.revisions import pin
from cycleqd_merge.merging.singular import similarity
from cycleqd_merge.merging.tokenizers import context_length, family_tokenizer
from cycleqd_merge.outputs.rehearsal import rehearse_export, require_exports
from cycleqd_merge.preflight.access import repositories, require_publishable, require_write
from cycleqd_merge.preflight.disk import disk_uses, download_uses, require_disk
from cycleqd_merge.preflight.estimate import available_memory, bases_seconds, fit_seconds, memory_of, time_of, try_out
from cycleqd_merge.preflight.plan_result import BasesSummary, FitSummary, ModelSummary, Plan, TaskSummary, existing
from cycleqd_merge.preflight.prompts import check_answers, check_prompts
from cycleqd_merge.preflight.rows import check_rows
from cycleqd_merge.run.identity import fit_identity, recorded_presets, recorded_revisions
from cycleqd_merge.run.opening import closed_run, identify
from cycleqd_merge.strategies.factory import build_space, build_strategy, child_count, ordered_tasks
from cycleqd_merge.strategies.state import SearchState
from cycleqd_merge.tasks.suite import Suite, SuiteTask, open_task, require_environments
from cycleqd_merge.tasks.targets import fitted_tasks, has_targets

_BASES_AT_ONCE = 60.0  # seconds; faster singular bases are computed here, because the measured child is built on them
_ALIKE = 0.05  # similarities that differ by less count as equal


def plan(recipe: Recipe | str | PathLike[str], measure: bool = True, since: float | None = None) -> Plan:
    """Check everything in a recipe, and estimate the time, memory and disk space of its run.

    recipe: a loaded one, or the path of its file. measure: evaluate one child, for the estimates of time and memory.
    since: the `time.perf_counter()` instant at which this process started on the recipe, for the estimated time to the
    first evaluation.

    Raises:
        RecipeError: the recipe file cannot be read or is not valid; all other errors are in the returned plan.
    """
    since = time.perf_counter() if since is None else since
    recipe = loaded_recipe(recipe)
    require_variables(recipe)
    begun = _begun(Path(recipe.output))
    recipe = fix_presets(recipe, recorded_presets(begun))
    recipe = with_recorded_archive(recipe, begun[0].get("evolution", {})) if begun else recipe
    found = Plan(cells=cells(recipe), capacity=novelty_capacity(recipe))
    found.attempt(require_archives, recipe)
    if recipe.hub is not None:
        found.attempt(require_write, *repositories(recipe.hub))
    try:
        recipe = pin(recipe, recorded_revisions(begun))
        found.disk = download_uses(recipe.pinned_models())
        require_disk(found.disk)
    except UserError as error:
        if found.disk:  # opening the models would start filling the disk
            found.errors.append(str(error))
            return found
        _check(recipe, measure, since, found)  # opening the models reports what is wrong with them
        if not found.errors:
            found.errors.append(str(error))
        return found
    found.attempt(require_publishable, recipe)
    _check(recipe, measure, since, found)
    return found


def _begun(out: Path) -> list[Event]:
    """The events of an existing run; none if they cannot be read, which `_check_output` reports."""
    try:
        return complete_events(out) if (out / JOURNAL_FILE).is_file() else []
    except UserError:
        return []


def _check(recipe: Recipe, measure: bool, since: float, found: Plan) -> None:
    """Open everything that the recipe names, check it, and estimate."""
    suite = _check_tasks(recipe, found)
    family = _check_models(recipe, found)
    groups = None if family is None else _check_groups(family, recipe, found)
    if family is not None:
        _check_answering(suite, family, recipe.engine.context, found)
    whole = family is not None and len(family.experts) == len(recipe.experts) and len(suite) == len(recipe.tasks)
    if family is None or groups is None or not whole:
        found.attempt(_check_output, Path(recipe.output), None)
        return
    opened = OpenedRecipe(recipe, family, groups, suite)
    founders, received = found.attempt(_check_output, Path(recipe.output), opened) or ([], 0)
    found.attempt(require_exports, recipe, len(founders))
    if not found.errors:  # most of them would be reported again
        found.attempt(rehearse_export, recipe, family, groups)
    mutated = sorted(recipe.mutated_experts(founders) | scaled_experts(founders_fits(founders)))
    uses = disk_uses(recipe, family, mutated, opened.recipe.rank)
    found.disk.extend(uses)
    found.attempt(require_disk, uses)
    fits = found.attempt(_check_fits, opened, found) or 0
    state = SearchState(build_space(recipe, len(groups), fits=fits))
    strategy = found.attempt(build_strategy, recipe, state, static_merges)
    if strategy is not None:
        evaluations = len(recipe.experts) + len(founders) + fits + child_count(recipe, strategy) - received
        _estimate(opened, mutated, max(0, evaluations), measure, since, found)


def _check_fits(opened: OpenedRecipe, found: Plan) -> int:
    """Check that the recipe's fits have something to learn; returns their number.

    Raises:
        RecipeError: they have not.
    """
    fit = opened.recipe.fit
    if fit is None:
        return 0
    tasks = fitted_tasks(opened.suite)
    found.fit = FitSummary(
        fits=len(fit_identity(fit, tasks)["weights"]),
        steps=fit.steps + (len(fit.families(tasks)) - 1) * fit.spread_steps,
        tasks=tasks,
        left_out={
            task.name: "it offers no answers to learn from"
            if not has_targets(task.task)
            else "`role: keep`, no `expert`"
            for task in opened.suite
            if task.name not in tasks
        },
    )
    return found.fit.fits


def _check_tasks(recipe: Recipe, found: Plan) -> Suite:
    """Open each task by itself; returns those that could be opened."""
    opened = [found.attempt(open_task, use, recipe.confirm.share, recipe.revisions) for use in ordered_tasks(recipe)]
    suite = tuple(task for task in opened if task is not None)
    for task in suite:
        found.notices.extend(check_rows(task))
        environments = found.attempt(require_environments, (task,)) or {}
        found.tasks.append(_task_summary(task, environments.get(task.name, "")))
    return suite


def _task_summary(task: SuiteTask, environment: str) -> TaskSummary:
    search, confirm, heldout = (len(task.samples(rows)) for rows in ("search", "confirm", "heldout"))
    return TaskSummary(task.name, task.use.role, search, confirm, heldout, environment, task.use.floor)


def _check_models(recipe: Recipe, found: Plan) -> ModelFamily | None:
    """Open base and experts, each by itself, and check those that could be opened; None without a base."""
    models = recipe.pinned_models()
    base = found.attempt(open_base, models)
    if base is None:
        return None
    opened = [found.attempt(open_expert, models, name, base) for name in models.experts]
    experts = tuple(expert for expert in opened if expert is not None)
    named = [("base", recipe.base, base), *((e.name, str(e.reference), e.weights) for e in experts)]
    summaries = [found.attempt(_model_summary, *each) for each in named]
    found.models = [each for each in summaries if each is not None]
    family = ModelFamily(base, experts, recipe.models)
    if len(experts) == len(models.experts):
        family = found.attempt(united, family) or family
    problems = found.attempt(check_family, family)
    if problems is not None:
        found.errors.extend(error for error in problems.errors if error not in found.errors)
        found.notices.extend(problems.notices)
    return family


def _model_summary(name: str, reference: str, weights: Checkpoint | Adapter) -> ModelSummary:
    """A summary of a model from the headers of its files.

    Raises:
        UserError: a file is damaged.
    """
    dtypes: dict[str, int] = {}
    parameters = 0
    for path in weights.files:
        try:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 - a safetensors file is not a dict
                    tensor = file.get_slice(key)
                    dtypes[tensor.get_dtype()] = dtypes.get(tensor.get_dtype(), 0) + 1
                    parameters += prod(tensor.get_shape())
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{path}: damaged or truncated: {first_line(error)}") from error
    return ModelSummary(
        name=name,
        reference=reference,
        path=str(weights.path),
        bytes=sum(path.stat().st_size for path in weights.files),
        tensors=sum(dtypes.values()),
        parameters=parameters,
        dtypes=dtypes,
        rank=weights.rank if isinstance(weights, Adapter) else None,
    )


def _check_groups(family: ModelFamily, recipe: Recipe, found: Plan) -> Groups | None:
    weights = found.attempt(lambda: family.weights)
    if weights is None:
        return None
    groups = Groups(weights, recipe.evolution.groups)
    found.groups = {label: len(groups.members(number)) for number, label in enumerate(groups.labels)}
    return groups


def _check_answering(suite: Suite, family: ModelFamily, context: int | None, found: Plan) -> None:
    """Check that the tasks' prompts fit the model."""
    tokenizer = found.attempt(family_tokenizer, family)
    if tokenizer is None:
        return
    found.notices.extend(tokenizer_notices(tokenizer))
    limit = context_length(family, tokenizer, context)
    for task in suite:
        prompts = check_prompts(task, tokenizer, limit)
        found.errors.extend(prompts.errors)
        found.notices.extend(prompts.notices)
        found.notices.extend(check_answers(task, tokenizer))


def _check_output(out: Path, opened: OpenedRecipe | None) -> tuple[list[Event], int]:
    """Check that the run directory can be written and holds no other run; returns its founders and number of results.

    Raises:
        UserError: it cannot be written, is being written by another process, or contains a different run or one that
            cannot be extended, or whose fits are missing or damaged.
    """
    if not (out / JOURNAL_FILE).is_file():
        nearest = existing(out)
        if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
            raise RecipeError(
                f"output: {out}: cannot be written: {nearest} is not a folder that you may write to; choose another"
            )
        return [], 0
    with opened_journal(out) as journal:
        if opened is None or not journal.events:
            return [], 0
        start = identify(opened, journal)
        closed_run(journal, opened)  # refuses to extend one
        fits = stated_fits(journal.events)
        keep_fits(out / RUN_FITS, fits)
        require_fits(fits, opened.family)
        return start["seeds"], len(of_kind(journal.events, "result"))


def _estimate(
    opened: OpenedRecipe, mutated: Sequence[int], evaluations: int, measure: bool, since: float, found: Plan
) -> None:
    """Estimate time and memory; measures only if there are no errors so far and the weights fit.

    evaluations: number of evaluations left.
    """
    available = available_memory()
    found.memory = memory_of(opened, None, available)
    _check_memory(found)
    if found.errors or not measure:
        return
    start = time.perf_counter()
    bases = bases_seconds(opened.family, mutated, opened.recipe.rank)
    if bases < _BASES_AT_ONCE:
        opened.materialiser(mutated)
        bases = 0.0
    ready = [expert for expert in mutated if not missing_bases(opened.family, expert, opened.recipe.rank)]
    _describe_bases(opened, ready, found)
    setup = start - since
    try:
        trial = try_out(opened, ready)
    except Exception as raised:  # it would stop the run's evaluations too
        cause = single_cause(raised)
        found.errors.append(f"measured evaluation: {type(cause).__name__}: {cause}")
        return
    found.time = time_of(opened.recipe, trial, evaluations, setup + trial.opened, bases)
    if found.fit is not None and trial.fit is not None:
        found.time = replace(found.time, fits=fit_seconds(trial.fit, found.fit))
        found.fit = replace(found.fit, tokens=round(found.fit.steps * trial.fit.tokens))
    found.memory = memory_of(opened, trial, available)
    _check_memory(found)


def _describe_bases(opened: OpenedRecipe, ready: Sequence[int], found: Plan) -> None:
    """Facts about experts from their cached singular bases, and notices about pairs far less similar than others."""
    bases = prepare_bases(opened.family, ready, rank=opened.recipe.rank)
    names = [expert.name for expert in opened.family.experts]
    for number, stored in bases.items():
        facts = BasesSummary(names[number], sum(stored.ranks.values()), stored.loss, stored.skew)
        found.bases.append(facts)
    values = {number: dict(stored.values()) for number, stored in bases.items()}
    pairs = {(one, other): similarity(values[one], values[other]) for one, other in combinations(values, 2)}
    found.similarity = {f"{names[one]}, {names[other]}": value for (one, other), value in pairs.items()}
    found.notices.extend(_unlike(pairs, names))


def _unlike(pairs: Mapping[tuple[int, int], float], names: Sequence[str]) -> Iterator[str]:
    """A notice about each pair of experts, and each expert, that is far less similar than all others."""
    alone = {f"experts {names[one]} and {names[other]}": [(one, other)] for one, other in pairs}
    whole = {f"expert {name}": [pair for pair in pairs if number in pair] for number, name in enumerate(names)}
    for label, members in (alone | whole).items():
        own = [pairs[pair] for pair in members]
        others = [value for pair, value in pairs.items() if pair not in members]
        if own and others and max(own) < min(others) - max(max(others) - min(others), _ALIKE):
            yield (
                f"{label}: similarity {max(own):.2f}, other pairs have {min(others):.2f} or more; "
                "experts that differ so much may not merge well"
            )


def _check_memory(found: Plan) -> None:
    found.errors.extend(
        f"memory: a worker requires {decimal(use.needed)} ({use.place}), {decimal(use.available)} available"
        for use in found.memory
        if use.needed > use.available
    )
