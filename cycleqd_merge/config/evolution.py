"""The `evolution` section of a recipe: groups, mutations, bounds, operators. Defaults are the paper's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    ModelWrapValidatorHandler,
    Tag,
    model_validator,
)

from cycleqd_merge.config.presets import PresetName, preset_evolution, preset_name
from cycleqd_merge.config.validation_errors import KeyProblem
from cycleqd_merge.config.values import (
    LARGE,
    MAX_GENERATIONS,
    MAX_ROWS,
    MAX_SEED,
    Moderate,
    RegularExpression,
    StrictConfig,
)

MAX_BINS, MAX_CAPACITY, MAX_IN_FLIGHT = 1_000_000, 1000, 10_000
_Factor = Annotated[float, Field(gt=0, le=LARGE)]


class LayerGroupsConfig(StrictConfig):
    """Blocks of layers, optionally divided by the kind of module within a layer."""

    layers: int | None = Field(None, ge=1, le=MAX_ROWS)
    """Layers per block; if neither this key nor `blocks` is set, all layers form one block."""
    blocks: int | None = Field(None, ge=1, le=MAX_ROWS)
    """Number of blocks of nearly equal size; at most one per layer."""
    modules: bool = False
    """Also divide by the module that contains a tensor (attention, MLP ...); everything else is one more group."""

    @model_validator(mode="after")
    def _check_keys(self) -> LayerGroupsConfig:
        if self.layers is None and self.blocks is None and not self.modules:
            raise ValueError("set `layers` or `blocks`, `modules: true`, or both")
        if self.layers is not None and self.blocks is not None:
            raise ValueError("set `layers` or `blocks`, not both")
        return self


class PatternGroupsConfig(StrictConfig):
    """Groups by regular expressions over tensor names."""

    patterns: list[RegularExpression] = Field(min_length=1)
    """A tensor belongs to the group of the first pattern found in its name; tensors without a match form one more."""


def _groups_form(value: Any) -> str:
    if isinstance(value, PatternGroupsConfig) or (isinstance(value, Mapping) and "patterns" in value):
        return "PatternGroups"
    return "LayerGroups" if isinstance(value, LayerGroupsConfig | Mapping) else "one"


GroupsConfig = Annotated[
    Annotated[Literal["one"], Tag("one")]
    | Annotated[LayerGroupsConfig, Tag("LayerGroups")]
    | Annotated[PatternGroupsConfig, Tag("PatternGroups")],
    Discriminator(_groups_form),
]


class SvdMutationConfig(StrictConfig):
    """Random strengthening along the singular directions of a task vector (paper, section 4.3)."""

    kind: Literal["svd"] = "svd"
    w_max: float = Field(0.3, gt=0, le=LARGE)
    """Upper end of the uniform draw per singular direction."""
    of: Literal["expert", "child"] = "expert"
    """Whose task vector: that of the current task's expert, as in the published code, or the child's own, as in the
    paper's text. The child's takes up to nine singular value decompositions per matrix and child."""
    signed: bool = False
    """Draw from -w_max to w_max, so that directions can also be weakened."""
    rank: Annotated[int, Field(ge=1, le=MAX_ROWS)] | Annotated[float, Field(gt=0, lt=1)] | None = None
    """Mutate only along the leading singular directions of a task vector: a whole number of them per matrix, or the
    fewest that hold this share of its squared norm. Fewer directions take less memory and time; `plan` reports how
    much they leave out."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.of == "child" and self.rank is not None:
            raise KeyProblem("cannot be combined with `of: child`, which keeps no singular bases; remove it", "rank")
        return self


class GaussianMutationConfig(StrictConfig):
    """Gaussian noise on every matrix (the paper's ablation)."""

    kind: Literal["gaussian"]
    std: float = Field(0.0003, gt=0, le=LARGE)
    """Standard deviation of the noise."""


class NoMutationConfig(StrictConfig):
    """No mutation: crossover only."""

    kind: Literal["none"]


def _svd_unless_stated(value: Any) -> Any:
    return {"kind": "svd", **value} if isinstance(value, Mapping) else value


MutationConfig = Annotated[
    Annotated[SvdMutationConfig | GaussianMutationConfig | NoMutationConfig, Field(discriminator="kind")],
    BeforeValidator(_svd_unless_stated),
]


class GridArchiveConfig(StrictConfig):
    """A grid of cells over the other tasks' scores, with one elite per cell, as in the paper."""

    kind: Literal["grid"]


class NoveltyArchiveConfig(StrictConfig):
    """A fixed number of elites by dominated novelty (Bahlous-Boldi et al., 2025), for many tasks: the elite nearest to
    others that are at least as good is replaced."""

    kind: Literal["dominated-novelty"] = "dominated-novelty"
    capacity: int = Field(100, ge=2, le=MAX_CAPACITY)
    """Number of elites that each archive keeps."""


ArchiveConfig = Annotated[GridArchiveConfig | NoveltyArchiveConfig, Field(discriminator="kind")]


class BoundsConfig(StrictConfig):
    """Bounds of an archive's axes, derived from the experts' scores in generation 0."""

    low: float = Field(0.85, ge=0, le=LARGE)
    """Lower bound, as a multiple of the lowest score of the tasks' experts on the axis' task."""
    high: float = Field(1.15, gt=0, le=LARGE)
    """Upper bound, as a multiple of their highest score on it."""


class RacingConfig(StrictConfig):
    """Racing: part of each task's search rows is scored first, and a child that cannot enter any archive, as
    the archives were when it was proposed, is not scored on the rest. It counts as a child that entered none."""

    share: float = Field(0.25, gt=0, lt=1)
    """Share of the rows to score first."""
    confidence: float = Field(0.99, gt=0.5, lt=1)
    """Required probability that the child would enter no archive."""
    rows: Literal["random", "difficulty"] = "random"
    """The rows to score first: the same random ones for every child, or rows of every difficulty, judged by the models
    scored so far."""
    best: int | None = Field(None, ge=1, le=MAX_ROWS)
    """Score only those children on the rest that are among this many best so far by their mean on the first rows, which
    then stay the same; by default all that could enter an archive. Requires `rows: difficulty`."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.best is not None and self.rows != "difficulty":
            raise KeyProblem("requires `rows: difficulty`", "best")
        return self


class EvolutionConfig(StrictConfig):
    """The search: CycleQD's operators and its length."""

    generations: int = Field(1200, ge=0, le=MAX_GENERATIONS)
    """Number of children to evaluate; a run can be extended later."""
    seconds: float | None = Field(None, gt=0, le=LARGE)
    """Propose no more children once the workers have spent this many seconds on fits and on evaluations on the search
    split, experts included; by default there is no such limit. It can be raised later."""
    seed: int = Field(0, ge=0, le=MAX_SEED)
    """Seed of the run."""
    bins: int = Field(15, ge=1, le=MAX_BINS)
    """Number of bins along each axis of an archive."""
    archive: ArchiveConfig | None = None
    """Kind of the archives, such as `{kind: dominated-novelty, capacity: 100}`; by default a grid of cells for up to
    four tasks to optimise, and dominated novelty for more."""
    bounds: BoundsConfig = BoundsConfig()
    """How archive bounds follow from the experts' scores."""
    groups: GroupsConfig = "one"
    """Groups of tensors that share a coefficient per expert."""
    mu: float = Field(1.0, gt=0, le=LARGE)
    """Mean of the crossover weights."""
    sigma: float = Field(0.03, ge=0, le=LARGE)
    """Standard deviation of the crossover weights."""
    scaling: tuple[_Factor, _Factor] | None = None
    """Crossover multiplies a child's task vectors by a factor drawn from this range, such as [1.0, 1.6]. The paper's
    plain mean of two experts keeps only half of each."""
    mutation: MutationConfig = SvdMutationConfig()
    """How children are mutated."""
    cycling: bool = True
    """Tasks take turns as the quality. If false, plain MAP-Elites (the paper's ablation): parents come from one archive
    whose quality is the mean score and whose behaviour characteristics are all tasks."""
    sampling: Literal["elite", "random", "published", "binned"] = "elite"
    """How parents are chosen: `elite` weights elites by their scores, as in the paper; `random` weights all equally;
    `published` weights them as the published code does, by the score of the archive's own task and the bins of the
    others; `binned` by the bins of all tasks (this is what `published` meant in version 0.1)."""
    mates: Literal["own", "any"] = "own"
    """The archive of the second parent: the first parent's, or, with `any`, another task's, drawn for each child."""
    adaptive: bool = False
    """`sigma` and the strength of mutations (`w_max`, `std`) follow the 1/5 success rule per task: they grow
    while more than one child in five enters an archive and shrink otherwise, by a factor of at most 8."""
    warm_start: list[Moderate] | None = Field(None, min_length=1)
    """Coefficients such as [0.3, 0.5, 0.7, 1.0]: the first generations are static merges, one per value,
    which give every expert this coefficient. They fill the archives before the first crossover."""
    race: RacingConfig | None = None
    """Reject children early on part of the rows, such as `{share: 0.25, confidence: 0.99}`; see docs/operators.md."""
    alpha_low: float = Field(0.5, gt=0, le=LARGE)
    """Elite sampling: weight factor of a task's worst elite."""
    alpha_high: float = Field(0.8, gt=0, le=LARGE)
    """Elite sampling: weight factor of a task's best elite."""
    in_flight: int | None = Field(None, ge=1, le=MAX_IN_FLIGHT)
    """Number of children in flight; by default 2 per worker, or 1 with `preset: paper`."""
    preset: PresetName | None = None
    """Values for keys that the recipe does not set. `paper`: the search as published, one child at a time.
    `recommended`: the fits, strategy and groups that did best in our measurements (docs/results.md).
    `recommended@1` fixes the version; without one, a new run takes the newest, and an existing run keeps its own."""

    @model_validator(mode="wrap")
    @classmethod
    def _with_preset(cls, stated: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        filled = preset_evolution(stated)
        config = handler({**filled, **stated} if filled else stated)
        config.model_fields_set.difference_update(
            filled
        )  # they are not stated: a different version may set different ones
        return config

    @model_validator(mode="after")
    def _ordered(self) -> EvolutionConfig:
        if self.alpha_low > self.alpha_high:
            raise KeyProblem(f"{self.alpha_low} is above alpha_high, which is {self.alpha_high}", "alpha_low")
        if self.bounds.low >= self.bounds.high:
            raise KeyProblem(
                f"{self.bounds.low} is not below bounds.high, which is {self.bounds.high}", "bounds", "low"
            )
        if self.scaling is not None and self.scaling[0] > self.scaling[1]:
            raise KeyProblem(f"{self.scaling[0]} is above {self.scaling[1]}", "scaling")
        if self.mates == "any" and not self.cycling:
            raise KeyProblem("`any` requires `cycling: true`; plain MAP-Elites has one archive", "mates")
        if self.race is not None and not self.cycling:
            raise KeyProblem("requires `cycling: true`; plain MAP-Elites does not support racing", "race")
        return self

    def children_in_flight(self, workers: int) -> int:
        """Children in flight at once with `workers` workers."""
        if self.in_flight is not None:
            return self.in_flight
        return 1 if self.preset is not None and preset_name(self.preset) == "paper" else 2 * workers
