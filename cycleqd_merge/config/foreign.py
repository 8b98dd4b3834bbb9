"""What a recipe that a stranger published may state: an allow-list of every key of every configuration class.

A key that is not listed is refused. Checks act on loaded values: on definitions, not on the text that names them, and
on real paths, after symbolic links. Keys that the user set (`ForeignConfig.own`) are trusted.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter

from cycleqd_merge.config.engines import TransformersEngineConfig, VllmEngineConfig
from cycleqd_merge.config.evolution import (
    BoundsConfig,
    EvolutionConfig,
    GaussianMutationConfig,
    GridArchiveConfig,
    LayerGroupsConfig,
    NoMutationConfig,
    NoveltyArchiveConfig,
    PatternGroupsConfig,
    RacingConfig,
    SvdMutationConfig,
)
from cycleqd_merge.config.fine_tuning import FineTuningConfig
from cycleqd_merge.config.fit import FitConfig
from cycleqd_merge.config.hub import HubConfig
from cycleqd_merge.config.origin import ForeignConfig, is_commit, is_public_address
from cycleqd_merge.config.recipe import ConfirmConfig, FinishConfig, ModelsConfig, Recipe, TaskConfig
from cycleqd_merge.config.regmean import RegMeanConfig
from cycleqd_merge.config.rows import RowsConfig, SplitRowsConfig, TwoFilesConfig, dataset_key
from cycleqd_merge.config.scorers import (
    ExactScorerConfig,
    MultipleChoiceScorerConfig,
    NumberScorerConfig,
    PythonScorerConfig,
    RegexScorerConfig,
    TokenF1ScorerConfig,
)
from cycleqd_merge.config.strategies import (
    BayesianConfig,
    CmaEsConfig,
    CmaMeConfig,
    CycleQDConfig,
    MergekitConfig,
    NamedStrategyConfig,
    NoSearchConfig,
    Nsga2Config,
    PythonStrategyConfig,
    RandomConfig,
)
from cycleqd_merge.config.tasks import (
    CodeTaskConfig,
    DbbenchTaskConfig,
    GenerateTaskConfig,
    LmEvalTaskConfig,
    MessageConfig,
    OsInteractionTaskConfig,
    PythonTaskConfig,
)
from cycleqd_merge.config.validation_errors import Location
from cycleqd_merge.config.values import UNEXPANDED
from cycleqd_merge.config.variables import carry
from cycleqd_merge.errors import RecipeError, printable

log = logging.getLogger(__name__)

PUBLISHED_OUTPUT = "run"
"""The run directory of a published recipe, whose own one is not published."""
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)?")
_MOST_MERGES = 100_000
_OUTSIDE = "is outside the run's folder"
_PLAIN = re.compile(r"[\w .:,+=()\[\]%-]*")


@dataclass(frozen=True)
class _Context:
    """The recipe that is checked, the folder that it may name files in, and names of shipped tasks."""

    recipe: Recipe
    folder: str
    shipped: frozenset[str]


@dataclass(frozen=True)
class Finding:
    """A value that a stranger's recipe may not have. kind: that of its rule."""

    at: Location
    kind: str
    reason: str = ""

    @property
    def key(self) -> str:
        """The place in the recipe, as `--set` names it."""
        return ".".join(printable(str(step)) for step in self.at)

    def __str__(self) -> str:
        return self.reason if self.at[::2] == ("tasks", "task") else f"{self.key}: {self.reason}"


_Check = Callable[[Any, BaseModel, _Context], str | None]


@dataclass(frozen=True)
class Rule:
    """What a stranger may state for a key.

    `safe`: anything that the class accepts; a value with keys of its own is checked by theirs. `checked`: values for
    which `check` finds no problem. `dropped`: nothing, it is about the machine or its user; the default is used.
    `code`: nothing, unless the user trusts the recipe's code.
    """

    kind: str
    check: _Check | None = None


SAFE, DROPPED, CODE = Rule("safe"), Rule("dropped"), Rule("code")


def _checked(check: _Check) -> Rule:
    return Rule("checked", check)


def _up_to(most: float) -> Rule:
    """A number, so that a stranger cannot ask for all of this machine."""

    def check(value: Any, _: BaseModel, __: _Context) -> str | None:
        too_large = value is not None and value > most
        return f"{value:g} is above {most:g}, the limit of a published recipe" if too_large else None

    return _checked(check)


def _model(reference: str, _: BaseModel, context: _Context) -> str | None:
    """A Hub id at a commit, or a folder in the run's folder; with an adapter of this form."""
    here = re.escape(context.folder.rstrip("/"))
    reference = re.sub(rf"(^|(?<=\+)){here}/", "./", reference)  # the folder's own name may contain signs
    parts = reference.split("+")
    if len(parts) > 2:
        return f"{printable(reference)} is not a model"
    return next(filter(None, (_model_part(part, context) for part in parts)), None)


def _model_part(part: str, context: _Context) -> str | None:
    path, _, revision = part.partition("@")
    if not _HUB_ID.fullmatch(path):
        return _outside(part, context) if part.startswith("./") else f"{printable(part)} {_OUTSIDE}"
    if os.path.exists(path):
        return f"{path} is meant as a Hub id, but is also a folder here; run the command in a different folder"
    return _unpinned(part, revision, context)


def _unpinned(name: str, revision: str | None, context: _Context) -> str | None:
    sha = context.recipe.revisions.get(name, revision or "")
    return None if is_commit(sha) else f"`revisions` has no commit for {printable(name)}"


def _experts(experts: Mapping[str, str], config: BaseModel, context: _Context) -> str | None:
    found = ((name, _model(reference, config, context)) for name, reference in experts.items())
    return next((f"{name}: {problem}" for name, problem in found if problem is not None), None)


def _outside(path: str, context: _Context) -> str | None:
    """A path must be in the run's folder, also after symbolic links."""
    inside = not path.startswith("~") and path.isprintable() and _is_inside(path, context.folder)
    return None if inside else f"{printable(path)} {_OUTSIDE}"


def _is_inside(path: str, folder: str) -> bool:
    root = os.path.realpath(folder)
    real = os.path.realpath(os.path.join(root, path))
    roots = [root]
    if Path(root).parent.name == "snapshots":  # in the Hub's cache, files are links to the repository's contents
        roots.append(str(Path(root).parents[1] / "blobs"))
    return any(Path(real).is_relative_to(each) for each in roots)


def _file(path: str | None, _: BaseModel, context: _Context) -> str | None:
    return None if path is None else _outside(path, context)


def _chat_template(template: str | None, _: BaseModel, context: _Context) -> str | None:
    if template in (None, "base", *context.recipe.experts):
        return None
    return _outside(str(template), context)


def _url(url: str | None, _: BaseModel, __: _Context) -> str | None:
    public = url is None or is_public_address(url)
    return None if public else f"{printable(str(url))}: only https:// addresses of public web servers are allowed"


def _dataset(name: str | None, config: BaseModel, context: _Context) -> str | None:
    """A Hub dataset at a commit, with its owner: without one, it may be a loader of `datasets` that reads files."""
    if name is None:
        return None
    if not _HUB_ID.fullmatch(name):
        return _outside(name, context) or f"{printable(name)} is not a dataset on the Hub"
    if "/" not in name:
        return f"{name}: write the dataset with its owner, as owner/{name}"
    if os.path.exists(name):
        return f"{name} is meant as a Hub dataset, but is also a folder here; run the command in a different folder"
    assert isinstance(config, RowsConfig)
    return _unpinned(dataset_key(config), config.revision, context)


def _plain(text: str | None, _: BaseModel, __: _Context) -> str | None:
    """Names that libraries look up, which must not be paths or addresses."""
    if text is None or (_PLAIN.fullmatch(text) and ".." not in text):
        return None
    return f"{printable(text)!r} is not a plain name"


def _methods(methods: list[str] | None, config: BaseModel, context: _Context) -> str | None:
    return next(filter(None, (_plain(method, config, context) for method in methods or ())), None)


def _grid(grid: Mapping[str, Mapping[str, list[Any]]], config: BaseModel, context: _Context) -> str | None:
    combinations = sum(math.prod(map(len, parameters.values())) for parameters in grid.values())
    if combinations > _MOST_MERGES:
        return f"{combinations} merges are more than {_MOST_MERGES}, the limit of a published recipe"
    names = [*grid, *(name for parameters in grid.values() for name in parameters)]
    return _methods(names, config, context)


def _lm_eval_task(task: str, config: BaseModel, context: _Context) -> str | None:
    if os.path.exists(task):
        return f"{printable(task)} is also a file here; run the command in a different folder"
    return _plain(task, config, context)


def _revisions(revisions: Mapping[str, str], _: BaseModel, __: _Context) -> str | None:
    wrong = [name for name, sha in revisions.items() if not is_commit(sha)]
    return f"{printable(wrong[0])}: {printable(revisions[wrong[0]])!r} is not a commit" if wrong else None


def _task(task: Any, _: BaseModel, context: _Context) -> str | None:
    if not isinstance(task, str) or task in context.shipped:
        return None
    return f"task {task!r}: neither defined in its recipe nor a shipped task"


_DESCRIBED = {"kind": SAFE, "description": SAFE, "data": SAFE}
_PROMPTED = {
    **dict.fromkeys(
        ("prompt", "messages", "chat", "system", "chat_template", "stop", "temperature", "thinking", "fit"), SAFE
    ),
    "max_new_tokens": _up_to(131_072),
}
_RANGE = {"kind": SAFE, "low": SAFE, "high": SAFE}
_TARGET = {"kind": SAFE, "target": CODE, "options": CODE}
_SECONDS, _MEMORY = _up_to(3600), _up_to(65_536)

FIELDS: Mapping[type[BaseModel], Mapping[str, Rule]] = {
    Recipe: {
        "base": _checked(_model),
        "experts": _checked(_experts),
        **dict.fromkeys(("tasks", "strategy", "evolution", "fit", "strategies", "models", "engine", "confirm"), SAFE),
        **dict.fromkeys(("workers", "ray_address", "output", "finish", "hub", "foreign"), DROPPED),
        "revisions": _checked(_revisions),
    },
    TaskConfig: {
        "task": _checked(_task),
        **dict.fromkeys(("name", "expert", "role", "floor", "samples", "bins", "bounds"), SAFE),
    },
    ModelsConfig: {
        **dict.fromkeys(("vocabulary", "end_tokens"), SAFE),
        "chat_template": _checked(_chat_template),
        **dict.fromkeys(("trust_remote_code", "pickles"), CODE),
    },
    ConfirmConfig: {"share": SAFE, "top": SAFE},
    FinishConfig: dict.fromkeys(FinishConfig.model_fields, DROPPED),
    HubConfig: dict.fromkeys(HubConfig.model_fields, DROPPED),
    ForeignConfig: dict.fromkeys(ForeignConfig.model_fields, DROPPED),
    TransformersEngineConfig: {
        **dict.fromkeys(("kind", "dtype"), SAFE),
        "batch_size": _up_to(4096),
        **dict.fromkeys(("device", "threads"), DROPPED),
    },
    VllmEngineConfig: {
        "kind": SAFE,
        "options": CODE,
        **dict.fromkeys(("environment", "place", "per_gpu"), DROPPED),
    },
    EvolutionConfig: {
        **dict.fromkeys(
            ("seed", "bounds", "groups", "mu", "sigma", "scaling", "mutation", "cycling", "sampling", "mates"), SAFE
        ),
        **dict.fromkeys(("adaptive", "warm_start", "race", "alpha_low", "alpha_high", "preset", "generations"), SAFE),
        **dict.fromkeys(("bins", "in_flight", "archive", "seconds"), SAFE),
    },
    LayerGroupsConfig: dict.fromkeys(("layers", "blocks", "modules"), SAFE),
    PatternGroupsConfig: {"patterns": SAFE},
    SvdMutationConfig: dict.fromkeys(("kind", "w_max", "of", "signed", "rank"), SAFE),
    GaussianMutationConfig: dict.fromkeys(("kind", "std"), SAFE),
    NoMutationConfig: {"kind": SAFE},
    GridArchiveConfig: {"kind": SAFE},
    NoveltyArchiveConfig: dict.fromkeys(("kind", "capacity"), SAFE),
    BoundsConfig: {"low": SAFE, "high": SAFE},
    RacingConfig: dict.fromkeys(("share", "confidence", "rows", "best"), SAFE),
    CycleQDConfig: {"kind": SAFE},
    RandomConfig: _RANGE,
    CmaEsConfig: dict.fromkeys(("kind", "start", "sigma", "population", "weights"), SAFE),
    CmaMeConfig: dict.fromkeys(("kind", "start", "sigma", "population", "bred"), SAFE),
    BayesianConfig: dict.fromkeys(("kind", "optimism", "noise", "bred"), SAFE),
    Nsga2Config: {**_RANGE, "population": SAFE},
    NoSearchConfig: {"kind": SAFE},
    MergekitConfig: {"kind": SAFE, "methods": _checked(_methods), "grid": _checked(_grid)},
    PythonStrategyConfig: _TARGET,
    NamedStrategyConfig: dict.fromkeys(("strategy", "evolution", "fit", "fine_tuning", "regmean"), SAFE),
    FineTuningConfig: dict.fromkeys(("learning_rate", "start", "steps", "seconds"), SAFE),
    RegMeanConfig: {"off_diagonal": SAFE, "scales": SAFE},
    FitConfig: {
        **dict.fromkeys(("coefficients", "scales", "loss", "examples", "learning_rate", "start"), SAFE),
        **dict.fromkeys(("steps", "spread_steps"), _up_to(10_000)),
        "rows": _up_to(4096),
        "likely": _up_to(4096),
        "width": _up_to(131_072),
        "weights": SAFE,
    },
    MessageConfig: {"role": SAFE, "content": SAFE},
    GenerateTaskConfig: {**_DESCRIBED, **_PROMPTED, "answer": SAFE, "scorer": SAFE},
    CodeTaskConfig: {
        **_DESCRIBED,
        **_PROMPTED,
        **dict.fromkeys(("metric", "k", "answers"), SAFE),
        "seconds": _SECONDS,
        "memory": _MEMORY,
    },
    OsInteractionTaskConfig: {
        **_DESCRIBED,
        **_PROMPTED,
        "scripts": _checked(_file),
        "root": _checked(_plain),
        **dict.fromkeys(("rounds", "repeats"), _up_to(1000)),
        **dict.fromkeys(("output_longest", "output_kept"), SAFE),
        "seconds": _SECONDS,
        "memory": _MEMORY,
        "boxes": _up_to(256),
    },
    DbbenchTaskConfig: {
        **_DESCRIBED,
        **_PROMPTED,
        "database": SAFE,
        "rounds": _up_to(1000),
        "seconds": _SECONDS,
    },
    LmEvalTaskConfig: {
        "kind": SAFE,
        "description": SAFE,
        "task": _checked(_lm_eval_task),
        **dict.fromkeys(("include", "overrides"), CODE),
        "metric": _checked(_plain),
        "num_fewshot": _up_to(1000),
        **dict.fromkeys(("chat", "system", "chat_template", "fewshot_as_multiturn", "thinking"), SAFE),
        **dict.fromkeys(("limit", "seed"), SAFE),
    },
    PythonTaskConfig: {**_TARGET, "description": SAFE},
    SplitRowsConfig: {"rows": SAFE, "seed": SAFE},
    TwoFilesConfig: {"search": SAFE, "heldout": SAFE},
    RowsConfig: {
        "path": _checked(_file),
        "url": _checked(_url),
        "dataset": _checked(_dataset),
        "config": _checked(_plain),
        "split": _checked(_plain),
        **dict.fromkeys(("sha256", "revision", "only"), SAFE),
    },
    ExactScorerConfig: dict.fromkeys(
        ("kind", "pattern", "lowercase", "squeeze", "replace", "strip", "first_line"), SAFE
    ),
    TokenF1ScorerConfig: dict.fromkeys(("kind", "lowercase", "first_line"), SAFE),
    NumberScorerConfig: dict.fromkeys(("kind", "pattern", "tolerance"), SAFE),
    RegexScorerConfig: dict.fromkeys(("kind", "full"), SAFE),
    MultipleChoiceScorerConfig: dict.fromkeys(("kind", "choices", "normalise"), SAFE),
    PythonScorerConfig: _TARGET,
}
"""For every configuration class, what a stranger may state for each of its keys. A class or key that is not listed runs
code, as far as this page knows: it is refused unless the user trusts the recipe's code."""


def findings(recipe: Recipe, mark: ForeignConfig, shipped: frozenset[str]) -> list[Finding]:
    """The values of a recipe that a stranger may not state, and those to drop. shipped: names of shipped tasks."""
    return list(_found(recipe, (), mark, _Context(recipe, mark.folder, shipped)))


def _found(config: BaseModel, at: Location, mark: ForeignConfig, context: _Context) -> Iterator[Finding]:
    rules = FIELDS.get(type(config), {})
    for name, field in type(config).model_fields.items():
        location, value, rule = (*at, name), getattr(config, name), rules.get(name, CODE)
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        if mark.is_own(location) or (not field.is_required() and value == default):
            continue
        value = _of_stranger(value, location, mark)
        if value == {}:
            continue
        reason = None if rule.check is None else rule.check(value, config, context)
        if rule is DROPPED and isinstance(value, BaseModel) and mark.has_own_in(location):
            yield from _found(value, location, mark, context)
        elif rule in (DROPPED, CODE):
            shown = printable(value) if name == "target" and isinstance(value, str) else name
            yield Finding(location, rule.kind, shown)
        elif reason is not None:
            yield Finding(location, rule.kind, reason)
        if rule is not DROPPED:
            yield from _below(value, location, mark, context)


def _below(value: Any, at: Location, mark: ForeignConfig, context: _Context) -> Iterator[Finding]:
    """The findings in the configurations that a value contains."""
    if isinstance(value, BaseModel):
        yield from _found(value, at, mark, context)
    elif isinstance(value, list | tuple | Mapping):
        for step, each in value.items() if isinstance(value, Mapping) else enumerate(value):
            if not mark.is_own((*at, step)):
                yield from _below(each, (*at, step), mark, context)


def _of_stranger(value: Any, at: Location, mark: ForeignConfig) -> Any:
    """A value without the keys that the user set."""
    if not isinstance(value, Mapping):
        return value
    return {key: _of_stranger(each, (*at, key), mark) for key, each in value.items() if not mark.is_own((*at, key))}


def guarded(recipe: Recipe, where: str, shipped: frozenset[str]) -> Recipe:
    """A recipe as it may be used: a stranger's is checked, and loses its settings about the machine and its user.

    where: names the recipe in messages. shipped: names of shipped tasks.

    Raises:
        RecipeError: it states something that a stranger may not state; one line.
    """
    mark = recipe.foreign
    if mark is None:
        return recipe
    found = findings(recipe, mark, shipped)
    require_harmless(found, where, mark.trust_remote_code, "allow it with --set foreign.trust_remote_code=true")
    dropped = [each.at for each in found if each.kind == DROPPED.kind and each.at != ("foreign",)]
    named = [".".join(map(str, at)) for at in dropped if at != ("output",)]
    if named:
        log.warning("%s: ignored %s: settings of the publisher's machine or account", where, ", ".join(named))
    return without_keys(recipe, dropped) if dropped else recipe


def without_keys(recipe: Recipe, keys: Iterable[Location]) -> Recipe:
    """The recipe with the defaults of some keys; `output` is then that of a published recipe."""
    stated = recipe.model_dump(mode="json", exclude_unset=True)
    for *above, key in keys:
        part: Any = stated
        for step in above:
            part = part[step]
        del part[key]
    adapter: TypeAdapter[Recipe] = TypeAdapter(Recipe)
    kept = adapter.validate_python({"output": PUBLISHED_OUTPUT, **stated}, context=UNEXPANDED)
    carry(recipe, kept)
    return kept


def refused_and_code(found: Sequence[Finding]) -> tuple[list[str], list[str]]:
    """The findings that are always refused, and the settings that run code, in words."""
    code = sorted({each.reason for each in found if each.kind == CODE.kind})
    return [str(each) for each in found if each.kind == "checked"], code


def require_harmless(found: Sequence[Finding], where: str, trust: bool, remedy: str) -> None:
    """Check that a stranger's recipe states nothing that it may not state.

    trust: it may run code. remedy: how the user allows that.

    Raises:
        RecipeError: it does.
    """
    refused, code = refused_and_code(found)
    if refused:
        raise RecipeError(f"{where}: refused: {'; '.join(refused)}")
    if code and not trust:
        raise RecipeError(f"{where}: its recipe runs code ({', '.join(code)}); read it, then {remedy}")
