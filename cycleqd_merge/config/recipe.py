"""The keys of a recipe. Defaults are the paper's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import (
    AliasChoices,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    model_validator,
)

from cycleqd_merge.config.engines import EngineConfig, TransformersEngineConfig, VllmEngineConfig
from cycleqd_merge.config.evolution import MAX_BINS, MAX_IN_FLIGHT, EvolutionConfig
from cycleqd_merge.config.hub import HubConfig
from cycleqd_merge.config.model_names import model_names
from cycleqd_merge.config.origin import ForeignConfig
from cycleqd_merge.config.strategies import (
    CmaEsConfig,
    CycleQDConfig,
    NamedStrategyConfig,
    PresetStrategyConfig,
    StrategyConfig,
    mutates,
    require_used,
)
from cycleqd_merge.config.tasks import TaskDefinitionConfig
from cycleqd_merge.config.validation_errors import KeyProblem, suggestion
from cycleqd_merge.config.values import (
    MAX_ROWS,
    EndToken,
    ModelReference,
    Moderate,
    Name,
    StrictConfig,
    Unit,
    require_name,
)


def _task_form(value: Any) -> str:
    return "reference" if isinstance(value, str) else "definition"


TaskReference = Annotated[
    Annotated[str, Tag("reference")] | Annotated[TaskDefinitionConfig, Tag("definition")], Discriminator(_task_form)
]


class TaskConfig(StrictConfig):
    """A task, and how this recipe uses it."""

    task: TaskReference
    """The name of a shipped task (see `tasks/`), the path of a YAML file, or the definition itself."""
    name: Name | None = None
    """Name in archives and reports; by default the definition's file name."""
    expert: Name | None = None
    """The expert whose task vector is mutated while this task is the quality; by default drawn from all experts."""
    role: Literal["optimise", "keep"] = "optimise"
    """`optimise` gives the task an archive; `keep` reports its score and enforces its `floor`."""
    floor: Unit | None = None
    """`role: keep`: children below this score enter no archive."""
    samples: int | None = Field(None, ge=1, le=MAX_ROWS)
    """Number of search rows to use, from the first; by default all. The confirmation split shrinks in proportion."""
    bins: int | None = Field(None, ge=1, le=MAX_BINS)
    """Number of bins along this task's axis, instead of `evolution.bins`."""
    bounds: tuple[Moderate, Moderate] | None = None
    """Explicit lowest and highest score of this task's axis, instead of `evolution.bounds`."""

    @model_validator(mode="after")
    def _consistent(self) -> TaskConfig:
        if self.name is None:
            if not isinstance(self.task, str):
                raise ValueError("a task that is defined in the recipe requires a `name`")
            try:
                require_name(task_name(self))
            except ValueError as error:
                raise KeyProblem(f"give the task a `name`: {error}; found {task_name(self)!r}", "task") from None
        if self.bounds is not None and not self.bounds[0] < self.bounds[1]:
            raise KeyProblem(f"{self.bounds[0]} is not below {self.bounds[1]}", "bounds")
        if self.floor is not None and self.role != "keep":
            raise KeyProblem("requires `role: keep`", "floor")
        return self


class ModelsConfig(StrictConfig):
    """How models are opened and compared."""

    vocabulary: Literal["strict", "base", "union"] = "strict"
    """What to do with tokens that an expert added to the base model's: refuse them (`strict`), drop their rows
    (`base`), or give merged models all of them (`union`)."""
    chat_template: str | None = None
    """The chat template to use if those of the models differ: `base`, the name of an expert, or a file."""
    end_tokens: list[EndToken] | None = Field(None, min_length=1)
    """The tokens that end an answer, or their ids; by default those of the base, of the model whose chat template is
    used, and of that template."""
    trust_remote_code: bool = False
    """Run the code that model repositories contain."""
    pickles: bool = False
    """Open models that exist only as pickles; no code in them is run, but safetensors are safer."""


class ConfirmConfig(StrictConfig):
    """Scoring the top elites again on the confirmation split: elites are maxima of noisy scores."""

    share: float = Field(0.2, ge=0, lt=1)
    """Share of each task's search rows that becomes the confirmation split; 0 disables it."""
    top: int = Field(10, ge=0, le=MAX_ROWS)
    """Number of elites with the highest mean to score again, in addition to the best of each archive; 0 confirms no
    elites at all and leaves the split unused."""


class FinishConfig(StrictConfig):
    """What `evolve` does after the last generation."""

    export: list[str] = Field(default_factory=list)
    """Models of the run to write to `output`/models: names that `export` accepts, such as `best-mean`."""
    heldout: bool = False
    """Score base, experts, their plain mean, the best-mean elite and the aggregate on the held-out split."""


DEPRECATED_KEYS = {"searches": "strategies"}
"""Deprecated keys of a recipe, which are still accepted, with the keys that replace them."""


def _with_deprecated_keys(schema: dict[str, Any]) -> None:
    """Add the deprecated keys to the JSON Schema of recipes: editors accept them and strike them through."""
    for old, new in DEPRECATED_KEYS.items():
        description = f"Deprecated: use `{new}`."
        schema["properties"][old] = {**schema["properties"][new], "description": description, "deprecated": True}


class Recipe(PresetStrategyConfig):
    """A recipe: base model, experts, tasks, and how to evolve them."""

    model_config = ConfigDict(json_schema_extra=_with_deprecated_keys)

    base: ModelReference
    """The model that every expert was fine-tuned from."""
    experts: dict[Name, ModelReference] = Field(min_length=2)
    """The experts, by names of your choice; all are in the initial archives and can be parents."""
    tasks: list[TaskConfig] = Field(min_length=2)
    """The skills that merged models should have; at least two with `role: optimise`."""
    strategy: StrategyConfig = CycleQDConfig()
    """The strategy that proposes children."""
    evolution: EvolutionConfig = EvolutionConfig()
    """Operators and length of the search."""
    strategies: dict[Name, NamedStrategyConfig] = Field(
        default_factory=dict, validation_alias=AliasChoices("strategies", "searches")
    )
    """Your own strategies for `compare`, by name, in addition to the built-in ones."""
    models: ModelsConfig = ModelsConfig()
    """How models are opened."""
    engine: EngineConfig = TransformersEngineConfig()
    """The engine that evaluates children."""
    workers: Literal["auto"] | Annotated[int, Field(ge=1, le=MAX_IN_FLIGHT)] = 1
    """Number of parallel evaluations, each on its own engine; more than one requires Ray. `auto`: one per GPU (or
    group of GPUs, with tensor parallelism)."""
    ray_address: str | None = None
    """The Ray cluster to use, such as `auto` or `ray://host:10001`; by default only this host."""
    confirm: ConfirmConfig = ConfirmConfig()
    """How the best elites are distinguished from lucky ones."""
    output: str
    """Directory of the run."""
    finish: FinishConfig = FinishConfig()
    """Exports and scores after the last generation."""
    hub: HubConfig | None = None
    """Where to publish the run; by default nowhere."""
    foreign: ForeignConfig | None = None
    """Set by `pull`: somebody else published this recipe. `--set foreign=null` makes it yours."""
    revisions: dict[str, str] = Field(default_factory=dict)
    """Commits of Hub ids, by `id` or `id@revision` as written in this recipe; datasets as `datasets/id`. A new run
    resolves the missing ones and records them."""

    @model_validator(mode="before")
    @classmethod
    def _without_both_keys(cls, stated: Any) -> Any:
        """Refuse a deprecated key next to the key that replaces it."""
        for old, new in DEPRECATED_KEYS.items():
            if isinstance(stated, Mapping) and old in stated and new in stated:
                raise KeyProblem(f"cannot be combined with `{new}`, which replaces it; use `{new}` alone", old)
        return stated

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        names = [task_name(use) for use in self.tasks]
        for place, (name, use) in enumerate(zip(names, self.tasks, strict=True)):
            if name in names[:place]:
                raise KeyProblem(
                    f"two tasks are named {name!r}; give one of them a different `name`", "tasks", place, "name"
                )
            if use.expert is not None and use.expert not in self.experts:
                hint = suggestion(use.expert, self.experts)
                known = ", ".join(self.experts)
                raise KeyProblem(
                    f"no expert is named {use.expert!r}{hint}; available: {known}", "tasks", place, "expert"
                )
        optimised = sum(use.role == "optimise" for use in self.tasks)
        if optimised < 2:
            raise KeyProblem(f"at least 2 tasks with `role: optimise` are required; found {optimised}", "tasks")
        require_used(self.evolution, self.strategy, self.fit)
        if self.fit is not None:
            self.fit.require_tasks([task_name(use) for use in self.tasks])
        if isinstance(self.engine, VllmEngineConfig) and self.engine.per_gpu > 1 and self.workers == 1:
            raise KeyProblem(
                "more than one engine per GPU requires more than one worker; set `workers: auto`", "engine", "per_gpu"
            )
        self._check_task_weights()
        return self

    def _check_task_weights(self) -> None:
        """Check the task weights of CMA-ES, if it is the strategy and has any."""
        weights = self.strategy.weights if isinstance(self.strategy, CmaEsConfig) else None
        names = [task_name(use) for use in self.tasks if use.role == "optimise"]
        for name in weights or {}:
            if name not in names:
                hint = suggestion(name, names)
                known = ", ".join(names)
                raise KeyProblem(
                    f"no task to optimise is named {name!r}{hint}; available: {known}", "strategy", "weights"
                )
        if weights is not None and not any(weights.values()):
            raise KeyProblem("at least one weight must be above 0", "strategy", "weights")

    def pinned_models(self) -> PinnedModels:
        """Base and experts with their Hub ids at their commits, as far as `revisions` states them."""
        experts = {name: self.pinned(reference) for name, reference in self.experts.items()}
        return PinnedModels(self.pinned(self.base), experts, self.models)

    def mutated_experts(self, founders: Sequence[dict[str, Any]] = ()) -> set[int]:
        """Numbers of the experts whose singular bases a run needs, for its fits and all mutations.

        founders: as the run's start event records them.
        """
        if self.fit is not None and self.fit.scales == "singular":
            return set(range(len(self.experts)))
        inherited = {mutation.get("expert") for each in founders for mutation in each["genome"]["mutations"]} - {None}
        mutation = self.evolution.mutation
        if not mutates(self.strategy) or mutation.kind != "svd" or mutation.of == "child":
            return inherited
        names = list(self.experts)
        uses = [use.expert for use in self.tasks if use.role == "optimise"]
        any_expert = None in uses or not self.evolution.cycling
        drawn_from = names if any_expert else [name for name in uses if name is not None]
        return inherited | {names.index(name) for name in drawn_from}

    @property
    def rank(self) -> int | float | None:
        """How singular bases are truncated; see `SvdMutationConfig.rank`."""
        return self.evolution.mutation.rank if self.evolution.mutation.kind == "svd" else None

    def pinned(self, reference: str) -> str:
        """A model reference with its Hub ids at their commits, as far as `revisions` states them."""
        names = model_names(reference)
        return "+".join(str(replace(each, revision=self.revisions.get(str(each), each.revision))) for each in names)


@dataclass(frozen=True)
class PinnedModels:
    """A recipe's models, with Hub ids at their commits. experts: references by name."""

    base: str
    experts: dict[str, str]
    settings: ModelsConfig


def task_name(use: TaskConfig) -> str:
    """The name of a task in archives and reports."""
    if use.name is not None:
        return use.name
    assert isinstance(use.task, str)
    return reference_name(use.task)


def reference_name(task: str) -> str:
    """The name of a task that a recipe refers to by a shipped name or a path."""
    return task.rsplit("/", 1)[-1].removesuffix(".yaml").removesuffix(".yml")


def json_schema(of: Literal["recipe", "task"]) -> dict[str, Any]:
    """The JSON Schema of recipes or of task files, for editors."""
    schema = Recipe.model_json_schema() if of == "recipe" else TypeAdapter(TaskDefinitionConfig).json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
