"""What a recipe may say. Defaults are the paper's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    WithJsonSchema,
    model_validator,
)

from cycleqd_merge.recipe.faults import KeyFault, suggestion
from cycleqd_merge.recipe.task_file import RegularExpression, Strict, Target, TaskDefinition


def _model_reference(value: str) -> str:
    parts = value.split("+")
    if len(parts) > 2 or any(part.count("@") > 1 or not part for part in parts):
        raise ValueError("write a model as a Hub id or a path, with `@revision` and `+adapter` where needed")
    return value


_HUB_ID = r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?"
_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"


def _name(value: str) -> str:
    if not re.fullmatch(_NAME, value):
        raise ValueError("a name is made of letters, digits, `_`, `.` and `-`, and begins with a letter or digit")
    return value


ModelReference = Annotated[str, AfterValidator(_model_reference)]
"""A model in mergekit's syntax: Hub id or local path, `@revision`, `base+adapter`."""


def hub_id(path: str) -> str | None:
    """The Hub id that a model's path (without `@revision`) is, unless it is a folder, or can only be meant for one."""
    return path if re.fullmatch(_HUB_ID, path) and not Path(path).exists() else None


Name = Annotated[str, AfterValidator(_name), WithJsonSchema({"type": "string", "pattern": _NAME})]
Unit = Annotated[float, Field(ge=0, le=1)]


class LayerGroups(Strict):
    """Blocks of layers, optionally divided by the kind of module within a layer."""

    layers: int | None = Field(None, ge=1)
    """Layers per block; without it all layers make one block."""
    modules: bool = False
    """Divide by the module that holds a tensor inside its layer (attention, MLP ...); the rest is one more group."""

    @model_validator(mode="after")
    def _states_something(self) -> LayerGroups:
        if self.layers is None and not self.modules:
            raise ValueError("state `layers`, `modules: true` or both")
        return self


class PatternGroups(Strict):
    """Groups by regular expressions over tensor names."""

    patterns: list[RegularExpression] = Field(min_length=1)
    """The first pattern found in a tensor's name names its group; tensors that none fits make one more."""


def _groups_form(value: Any) -> str:
    if isinstance(value, PatternGroups) or (isinstance(value, Mapping) and "patterns" in value):
        return "PatternGroups"
    return "LayerGroups" if isinstance(value, LayerGroups | Mapping) else "one"


GroupSetting = Annotated[
    Annotated[Literal["one"], Tag("one")]
    | Annotated[LayerGroups, Tag("LayerGroups")]
    | Annotated[PatternGroups, Tag("PatternGroups")],
    Discriminator(_groups_form),
]


class SvdMutation(Strict):
    """Random strengthening along the singular directions of a task vector (paper, section 4.3)."""

    kind: Literal["svd"] = "svd"
    w_max: float = Field(0.3, gt=0)
    """Upper end of the uniform draw per singular direction."""
    signed: bool = False
    """Draw from -w_max to w_max: directions may be lowered too."""
    rank: Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)] | None = None
    """Mutate along a task vector's leading singular directions only: so many per matrix, or as few as hold this share
    of its squared norm. Fewer take less memory and time; `plan` says what they leave out."""


class GaussianMutation(Strict):
    """Gaussian noise on every matrix (the paper's ablation)."""

    kind: Literal["gaussian"]
    std: float = Field(0.0003, gt=0)
    """Standard deviation of the noise."""


class NoMutation(Strict):
    """Crossover alone."""

    kind: Literal["none"]


def _svd_unless_stated(value: Any) -> Any:
    return {"kind": "svd", **value} if isinstance(value, Mapping) else value


Mutation = Annotated[
    Annotated[SvdMutation | GaussianMutation | NoMutation, Field(discriminator="kind")],
    BeforeValidator(_svd_unless_stated),
]


class BoundFactors(Strict):
    """Archive bounds from generation 0, per task."""

    low: float = Field(0.85, ge=0)
    """Times the worst score of the tasks' experts."""
    high: float = Field(1.15, gt=0)
    """Times their best score."""


class Racing(Strict):
    """Rejecting children early: part of each task's search rows is scored first, and a child that can enter no archive,
    as they stood when it was proposed, is not scored on the others. It counts as one that entered none."""

    share: float = Field(0.25, gt=0, lt=1)
    """Share of the rows that is scored first."""
    confidence: float = Field(0.99, gt=0.5, lt=1)
    """How sure it must be that the child would enter no archive."""


PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "recommended": {"warm_start": [0.3, 0.5, 0.7, 1.0], "scaling": [0.9, 1.3]},
}
"""What each preset states of `Evolution`, whose own defaults are the paper's; docs/results.md says why."""


class Evolution(Strict):
    """The search: CycleQD's operators and its length."""

    generations: int = Field(1200, ge=0)
    """Children to evaluate; a run can be extended later."""
    seed: int = Field(0, ge=0)
    """Seed of the run."""
    bins: int = Field(15, ge=1)
    """Cells per task and axis."""
    bounds: BoundFactors = BoundFactors()
    """How archive bounds follow from the experts' scores."""
    groups: GroupSetting = "one"
    """Groups of tensors that share a coefficient per expert."""
    mu: float = Field(1.0, gt=0)
    """Mean of the crossover weights."""
    sigma: float = Field(0.03, ge=0)
    """Standard deviation of the crossover weights."""
    scaling: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] | None = None
    """Crossover multiplies a child's task vectors by a factor drawn from this range, such as [1.0, 1.6]: the plain mean
    of two experts, the paper's, leaves half of either."""
    mutation: Mutation = SvdMutation()
    """How children are mutated."""
    cycling: bool = True
    """Tasks take turns as the quality. Without, plain MAP-Elites (the paper's ablation): parents come from one archive
    whose quality is the mean score, and all tasks are its behaviour characteristics."""
    sampling: Literal["elite", "random", "published"] = "elite"
    """How parents are chosen; `published` weighs elites by their bins, as the published code does."""
    mates: Literal["own", "any"] = "own"
    """Where the second parent comes from: the archive of the first, or, with `any`, that of another task, drawn anew
    for each child."""
    adaptive: bool = False
    """`sigma` and the strength of mutations (`w_max`, `std`) follow the 1/5 success rule, for each task apart: they
    grow while more than one child in five enters an archive, else they shrink, up to eightfold either way."""
    warm_start: list[float] | None = Field(None, min_length=1)
    """Levels such as [0.3, 0.5, 0.7, 1.0]: the first generations are the static merges that hold so much of every
    expert's task vector, and fill the archives before the first child is bred."""
    race: Racing | None = None
    """Reject hopeless children on a part of the rows, such as `{share: 0.25, confidence: 0.99}`."""
    alpha_low: float = Field(0.5, gt=0)
    """Elite sampling: weight factor of the worst elite of a task."""
    alpha_high: float = Field(0.8, gt=0)
    """Elite sampling: weight factor of the best elite of a task."""
    in_flight: int | None = Field(None, ge=1)
    """Children evaluated at once; 2 per worker by default, 1 under `preset: paper`."""
    preset: Literal["paper", "recommended"] | None = None
    """Operators that are not stated: `paper`, as published, one child at a time; `recommended`, what did best where it
    was measured (docs/results.md)."""

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, stated: Any) -> Any:
        preset = stated.get("preset") if isinstance(stated, Mapping) else None
        return {**PRESETS[preset], **stated} if isinstance(preset, str) and preset in PRESETS else stated

    @model_validator(mode="after")
    def _ordered(self) -> Evolution:
        if self.alpha_low > self.alpha_high:
            raise KeyFault(f"{self.alpha_low} is above alpha_high, which is {self.alpha_high}", "alpha_low")
        if self.bounds.low >= self.bounds.high:
            raise KeyFault(f"{self.bounds.low} is not below bounds.high, which is {self.bounds.high}", "bounds", "low")
        if self.scaling is not None and self.scaling[0] > self.scaling[1]:
            raise KeyFault(f"{self.scaling[0]} is above {self.scaling[1]}", "scaling")
        if self.mates == "any" and not self.cycling:
            raise KeyFault("`any` needs `cycling: true`; plain MAP-Elites has one archive", "mates")
        if self.race is not None and not self.cycling:
            raise KeyFault("needs `cycling: true`; the archive of plain MAP-Elites takes part in no race", "race")
        return self

    def flights(self, workers: int) -> int:
        """Children in flight at once with `workers` workers."""
        if self.in_flight is not None:
            return self.in_flight
        return 1 if self.preset == "paper" else 2 * workers


def _task_form(value: Any) -> str:
    return "reference" if isinstance(value, str) else "definition"


TaskReference = Annotated[
    Annotated[str, Tag("reference")] | Annotated[TaskDefinition, Tag("definition")], Discriminator(_task_form)
]


class TaskUse(Strict):
    """A task as this recipe uses it."""

    task: TaskReference
    """A definition shipped in `tasks/` by its name, a YAML file by its path, or the definition itself."""
    name: Name | None = None
    """Name in archives and reports; by default the definition's file name."""
    expert: Name | None = None
    """The expert whose task vector is mutated while this task is the quality; drawn from all if left out."""
    role: Literal["optimise", "keep"] = "optimise"
    """`optimise` gives the task an archive; `keep` only reports its score and holds its `floor`."""
    floor: Unit | None = None
    """`role: keep`: children below this score enter no archive."""
    samples: int | None = Field(None, ge=1)
    """Use only the first rows of the search split."""
    bins: int | None = Field(None, ge=1)
    """Cells along this task's axis, instead of `evolution.bins`."""
    bounds: tuple[float, float] | None = None
    """Explicit lowest and highest score of this task's axis, instead of `evolution.bounds`."""

    @model_validator(mode="after")
    def _consistent(self) -> TaskUse:
        if self.name is None:
            if not isinstance(self.task, str):
                raise ValueError("a task that is defined inline needs a `name`")
            try:
                _name(task_name(self))
            except ValueError as error:
                raise KeyFault(
                    f"give the task a `name` of its own: {error}; found {task_name(self)!r}", "task"
                ) from None
        if self.bounds is not None and not self.bounds[0] < self.bounds[1]:
            raise KeyFault(f"{self.bounds[0]} is not below {self.bounds[1]}", "bounds")
        if self.floor is not None and self.role != "keep":
            raise KeyFault("needs `role: keep`", "floor")
        return self


class Models(Strict):
    """How models are opened and compared."""

    vocabulary: Literal["strict", "base"] = "strict"
    """`base` drops the embedding rows that an expert added behind the base model's vocabulary."""
    chat_template: str | None = None
    """`base`, the name of an expert, or a file: which chat template counts where the models' differ."""
    trust_remote_code: bool = False
    """Run code that a model repository ships."""
    pickles: bool = False
    """Open models that come as pickles only; nothing in them is run, but safetensors are the safer form."""


class TransformersEngine(Strict):
    """Evaluation with transformers in this process."""

    kind: Literal["transformers"] = "transformers"
    device: str | None = None
    """A torch device; by default what accelerate finds."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type to compute in; `auto` is the checkpoint's."""
    batch_size: int = Field(64, ge=1)
    """Prompts per batch."""
    threads: int | None = Field(None, ge=1)
    """CPU threads; by default torch's."""


class VllmEngine(Strict):
    """Evaluation with vLLM: one persistent engine per worker, children built inside its own processes."""

    kind: Literal["vllm"]
    options: dict[str, Any] = Field(default_factory=dict)
    """Passed on to vLLM: `max_model_len`, `gpu_memory_utilization`, `tensor_parallel_size`, `kv_cache_dtype` ..."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Environment variables set before vLLM starts, such as `VLLM_BATCH_INVARIANT: "1"`."""
    place: Literal["auto", "disk", "host", "device"] = "auto"
    """Where base, experts and singular bases are kept between children: memory-mapped files, pinned host memory, or
    the GPU's memory; `auto` takes the fastest that has room. vLLM gets what is left, unless `options` say otherwise."""


def _transformers_unless_stated(value: Any) -> Any:
    return {"kind": "transformers", **value} if isinstance(value, Mapping) else value


Engine = Annotated[
    Annotated[TransformersEngine | VllmEngine, Field(discriminator="kind")],
    BeforeValidator(_transformers_unless_stated),
]


class Confirm(Strict):
    """Scoring the top elites again on rows that the search did not use: elites are maxima of noisy scores."""

    share: float = Field(0.2, ge=0, lt=1)
    """Share of each task's search rows that is set aside for it; 0 switches it off."""
    top: int = Field(10, ge=0)
    """How many elites of the highest mean, besides the best of each archive, are scored again; 0: none at all, and the
    rows stay unseen."""


class CycleQDStrategy(Strict):
    """CycleQD, as `evolution` sets it up."""

    kind: Literal["cycleqd"] = "cycleqd"


class Coefficients(Strict):
    """A range of coefficients: how much of an expert's task vector each group of tensors holds."""

    low: float = 0.0
    """The least."""
    high: float = 1.0
    """The most."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise KeyFault(f"{self.low} is not below high, which is {self.high}", "low")
        return self


class RandomStrategy(Coefficients):
    """Random search: every coefficient drawn evenly from a range."""

    kind: Literal["random"]


class CmaEsStrategy(Strict):
    """CMA-ES over the coefficients of all experts and groups, for the mean score, as mergekit-evolve searches."""

    kind: Literal["cma-es"]
    start: float | None = None
    """All coefficients where the search begins; 1 / experts, their plain mean, by default."""
    sigma: float = Field(0.2, gt=0)
    """Standard deviation that it begins with."""
    population: int | None = Field(None, ge=2)
    """Children per population; by default as many as `cma` takes for the number of coefficients."""
    weights: dict[Name, Annotated[float, Field(ge=0)]] | None = None
    """Weight of each task's score in the objective; by default they count alike."""


class CmaMeStrategy(Strict):
    """CMA-ME over the coefficients of all experts and groups: a CMA-ES for each task's archive, driven by what its
    children improve there, and one for the mean score, in turns; beside them, children bred as `evolution` says."""

    kind: Literal["cma-me"]
    start: float | None = None
    """All coefficients where each begins; 1 / experts, their plain mean, by default."""
    sigma: float = Field(0.2, gt=0)
    """Standard deviation that each begins with."""
    population: int | None = Field(None, ge=2)
    """Children per population; by default as many as `ribs` takes for the number of coefficients."""
    bred: Unit = 0.0
    """Share of children that CycleQD's operators, mutation among them, breed from the same archives instead."""


class Nsga2Strategy(Coefficients):
    """NSGA-II over the coefficients of all experts and groups, an objective per task."""

    kind: Literal["nsga2"]
    population: int = Field(20, ge=4)
    """Children per population."""


class MergekitStrategy(Strict):
    """Merge methods of mergekit with given parameters, one after another, built by mergekit itself."""

    kind: Literal["mergekit"]
    methods: list[str] | None = Field(None, min_length=1)
    """Methods by mergekit's names; by default all that fit the recipe's models."""
    grid: dict[str, dict[str, Annotated[list[float | bool], Field(min_length=1)]]] = Field(default_factory=dict)
    """By method, values to try of each parameter, instead of the small grid that each method has; `weight` is every
    expert's."""


class PythonStrategy(Target):
    """The user's own strategy: a class as docs/python.md shows, called with the search space, seed and options."""

    kind: Literal["python"]


Strategy = Annotated[
    CycleQDStrategy
    | RandomStrategy
    | CmaEsStrategy
    | CmaMeStrategy
    | Nsga2Strategy
    | MergekitStrategy
    | PythonStrategy,
    Field(discriminator="kind"),
]


_BREEDING: tuple[str, ...] = ("scaling", "mates", "adaptive")
"""Keys of `evolution` that say how children are bred, and nothing to a strategy that breeds none."""


def _require_heeded(evolution: Evolution, strategy: Strategy) -> None:
    """Refuse what the paper's search does not have, where it is stated beside a strategy that takes no notice of it.

    A strategy in Python is handed the warm starts, and may begin with them.

    Raises:
        KeyFault: there is something; `at` begins with `evolution`.
    """
    kind = strategy.kind
    if evolution.race is not None and kind != "cycleqd":
        raise KeyFault(f"{kind} needs every child's scores, not its entries alone", "evolution", "race")
    if kind == "cma-me" and not evolution.cycling:
        raise KeyFault("CMA-ME needs `cycling: true`: it improves an archive per task", "evolution", "cycling")
    bred = kind == "cycleqd" or (isinstance(strategy, CmaMeStrategy) and strategy.bred > 0)
    ignored = () if bred else _BREEDING
    if kind not in ("cycleqd", "cma-me", "python"):
        ignored += ("warm_start",)
    for key in ignored:
        if getattr(evolution, key) != Evolution.model_fields[key].default:
            unless = " unless `strategy.bred` is above 0" if kind == "cma-me" else ""
            raise KeyFault(f"{kind} takes no notice of it{unless}; leave it out", "evolution", key)


class Search(Strict):
    """A search of the user's own for `compare`."""

    strategy: Strategy = CycleQDStrategy()
    """What proposes children."""
    evolution: Evolution = Evolution()
    """Its operators; generations, seed, bins and bounds are the recipe's."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _require_heeded(self.evolution, self.strategy)
        return self


class Finish(Strict):
    """What `evolve` does once the last generation is told."""

    export: list[str] = Field(default_factory=list)
    """Models of the run to write to `output`/models, by the names that `export` takes, such as `best-mean`."""
    heldout: bool = False
    """Score base, experts, their plain mean, the best-mean elite and the aggregate on the held-out rows."""


_REPOSITORY = r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$"


def _repository(value: str) -> str:
    if not re.fullmatch(_REPOSITORY, value):
        raise ValueError("write a repository as `user/name`")
    return value


Repository = Annotated[str, AfterValidator(_repository), WithJsonSchema({"type": "string", "pattern": _REPOSITORY})]


class Hub(Strict):
    """Publishing a run on the Hugging Face Hub. The token comes from HF_TOKEN or `hf auth login`, never from here."""

    repo: Repository
    """The model repository; the archive goes to the dataset repository of this name with `-archive` behind it."""
    private: bool = False
    """Make repositories that are not there yet private."""
    every: int | None = Field(None, ge=1)
    """Push the archive after every so many generations while the run goes on; all is pushed at its end anyway."""
    archive: bool = True
    """Push the archive: every elite's genome and scores, all generations, the recipe; enough to restore the run."""
    rows: bool = False
    """Push local files that tasks read rows from along with the archive; without them others cannot go on with it."""
    root: str | None = "best-mean"
    """The model at the root of `repo`, by a name that `export` takes; null: none."""
    elites: list[str] = Field(default_factory=list)
    """Further models: names that `export` takes, `best`, `all-best` (of each task and in the mean), `pareto`."""
    layout: Literal["subfolders", "repos"] = "subfolders"
    """Put further models into subfolders of `repo`, or into repositories of their own, gathered in a collection."""
    license: str | None = None
    """The licence of what is pushed, as the Hub calls it; by default the parents', which must then agree."""
    adapters: bool = False
    """Push models as LoRA adapters on the base; all experts must be adapters."""

    space: bool = False
    """Push the run's page, as `report` writes it, as a static Space."""

    @property
    def archive_repo(self) -> str:
        """The dataset repository of the archive."""
        return f"{self.repo}-archive"


class Recipe(Strict):
    """A recipe: base model, experts, tasks, and how to evolve them."""

    base: ModelReference
    """The model that every expert was fine-tuned from."""
    experts: dict[Name, ModelReference] = Field(min_length=2)
    """The experts by a name of your choice; all seed the archives and take part in crossover."""
    tasks: list[TaskUse] = Field(min_length=2)
    """What the merged models shall be able to do; at least two with `role: optimise`."""
    strategy: Strategy = CycleQDStrategy()
    """What proposes children."""
    evolution: Evolution = Evolution()
    """The search."""
    searches: dict[Name, Search] = Field(default_factory=dict)
    """Searches that `compare` knows by these names, besides its own."""
    models: Models = Models()
    """How models are opened."""
    engine: Engine = TransformersEngine()
    """What evaluates a child."""
    workers: Literal["auto"] | Annotated[int, Field(ge=1)] = 1
    """Evaluations at work at once, each on an engine of its own; more than one needs Ray. `auto`: one per GPU (or
    group of GPUs, with tensor parallelism)."""
    ray_address: str | None = None
    """A Ray cluster to work on, such as `auto` or `ray://host:10001`; by default this host alone."""
    confirm: Confirm = Confirm()
    """How the best are told from the lucky before any is chosen."""
    output: str
    """Directory of the run."""
    finish: Finish = Finish()
    """What happens after the last generation."""
    hub: Hub | None = None
    """Where the run is published, if it is."""
    revisions: dict[str, str] = Field(default_factory=dict)
    """The commit of each Hub id, by `id` or `id@revision` as it stands here, datasets as `datasets/id`. A run resolves
    those that are missing when it begins, and keeps them."""

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        names = [task_name(use) for use in self.tasks]
        for place, (name, use) in enumerate(zip(names, self.tasks, strict=True)):
            if name in names[:place]:
                raise KeyFault(f"two tasks are named {name!r}; give one another `name`", "tasks", place, "name")
            if use.expert is not None and use.expert not in self.experts:
                hint = suggestion(use.expert, self.experts)
                known = ", ".join(self.experts)
                raise KeyFault(f"no expert is named {use.expert!r}{hint}; there are {known}", "tasks", place, "expert")
        optimised = sum(use.role == "optimise" for use in self.tasks)
        if optimised < 2:
            raise KeyFault(f"needs at least 2 tasks with `role: optimise`, an archive each; found {optimised}", "tasks")
        _require_heeded(self.evolution, self.strategy)
        self._weighs_tasks()
        return self

    def _weighs_tasks(self) -> None:
        """Check the weights of CMA-ES, if it is the strategy and has any."""
        weights = self.strategy.weights if isinstance(self.strategy, CmaEsStrategy) else None
        names = [task_name(use) for use in self.tasks if use.role == "optimise"]
        for name in weights or {}:
            if name not in names:
                hint = suggestion(name, names)
                known = ", ".join(names)
                raise KeyFault(f"no task to optimise is named {name!r}{hint}; there are {known}", "strategy", "weights")
        if weights is not None and not any(weights.values()):
            raise KeyFault("needs a weight above 0", "strategy", "weights")

    def pinned(self, reference: str) -> str:
        """A model reference with its Hub ids at their commits, as far as `revisions` states them."""
        commits = {part: self.revisions.get(part) for part in reference.split("+")}
        return "+".join(part if sha is None else f"{part.partition('@')[0]}@{sha}" for part, sha in commits.items())


def task_name(use: TaskUse) -> str:
    """The name of a task in archives and reports."""
    if use.name is not None:
        return use.name
    assert isinstance(use.task, str)
    return use.task.rsplit("/", 1)[-1].removesuffix(".yaml").removesuffix(".yml")


def json_schema(of: Literal["recipe", "task"]) -> dict[str, Any]:
    """The JSON Schema of recipes or of task files, for editors."""
    schema = Recipe.model_json_schema() if of == "recipe" else TypeAdapter(TaskDefinition).json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
