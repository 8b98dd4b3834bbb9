"""The strategies that a recipe may name."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    model_validator,
)

from cycleqd_merge.config.evolution import EvolutionConfig
from cycleqd_merge.config.presets import PRESETS, newest, preset_strategy
from cycleqd_merge.config.validation_errors import KeyProblem
from cycleqd_merge.config.values import Name, PythonTargetConfig, StrictConfig, Unit


class CycleQDConfig(StrictConfig):
    """CycleQD, as `evolution` sets it up."""

    kind: Literal["cycleqd"] = "cycleqd"


class CoefficientRangeConfig(StrictConfig):
    """A range of coefficients: how much of an expert's task vector each group of tensors holds."""

    low: float = 0.0
    """The least."""
    high: float = 1.0
    """The most."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise KeyProblem(f"{self.low} is not below high, which is {self.high}", "low")
        return self


class RandomConfig(CoefficientRangeConfig):
    """Random search: every coefficient drawn evenly from a range."""

    kind: Literal["random"]


class CmaEsConfig(StrictConfig):
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


class CmaMeConfig(StrictConfig):
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


class BayesianConfig(StrictConfig):
    """Bayesian optimisation over the coefficients of all experts and groups: Gaussian processes foretell every task's
    score, and children take turns between the best mean and what widens the front of all tasks; beside them, children
    bred as `evolution` says. Learns most from few evaluations."""

    kind: Literal["bayesian"]
    optimism: float = Field(1.0, ge=0)
    """Standard deviations above what is foretold at which a child is judged: more explores more."""
    bred: Unit = 0.0
    """Share of children that CycleQD's operators, mutation among them, breed from the same archives instead."""


class Nsga2Config(CoefficientRangeConfig):
    """NSGA-II over the coefficients of all experts and groups, an objective per task."""

    kind: Literal["nsga2"]
    population: int = Field(20, ge=4)
    """Children per population."""


class MergekitConfig(StrictConfig):
    """Merge methods of mergekit with given parameters, one after another, built by mergekit itself."""

    kind: Literal["mergekit"]
    methods: list[str] | None = Field(None, min_length=1)
    """Methods by mergekit's names; by default all that fit the recipe's models."""
    grid: dict[str, dict[str, Annotated[list[float | bool], Field(min_length=1)]]] = Field(default_factory=dict)
    """By method, values to try of each parameter, instead of the small grid that each method has; `weight` is every
    expert's."""


class PythonStrategyConfig(PythonTargetConfig):
    """The user's own strategy: a class as docs/python.md shows, called with the search space, seed and options."""

    kind: Literal["python"]


StrategyConfig = Annotated[
    CycleQDConfig
    | RandomConfig
    | CmaEsConfig
    | CmaMeConfig
    | BayesianConfig
    | Nsga2Config
    | MergekitConfig
    | PythonStrategyConfig,
    Field(discriminator="kind"),
]


_BREEDING: tuple[str, ...] = ("scaling", "mates", "adaptive")
"""Keys of `evolution` that say how children are bred, and nothing to a strategy that breeds none."""

_MIXED = (CmaMeConfig, BayesianConfig)
"""Strategies that breed a share of their children."""


def breeds(strategy: StrategyConfig) -> bool:
    """Whether any of a strategy's children are bred by CycleQD's operators; what one in Python does is its own."""
    return strategy.kind == "cycleqd" or (isinstance(strategy, _MIXED) and strategy.bred > 0)


def mutates(strategy: StrategyConfig) -> bool:
    """Whether any of a strategy's children are mutated, for all that is known: one in Python may do so."""
    return strategy.kind == "python" or breeds(strategy)


def require_heeded(evolution: EvolutionConfig, strategy: StrategyConfig) -> None:
    """Refuse what the paper's search does not have, where it is stated beside a strategy that takes no notice of it.

    A strategy in Python is handed the warm starts, and may begin with them.

    Raises:
        KeyFault: there is something; `at` begins with `evolution`.
    """
    kind = strategy.kind
    if evolution.race is not None and kind != "cycleqd":
        raise KeyProblem(f"{kind} needs every child's scores, not its entries alone", "evolution", "race")
    if kind == "cma-me" and not evolution.cycling:
        raise KeyProblem("CMA-ME needs `cycling: true`: it improves an archive per task", "evolution", "cycling")
    if kind == "bayesian" and not evolution.cycling:
        raise KeyProblem("bayesian needs `cycling: true`: what it breeds, it breeds per task", "evolution", "cycling")
    ignored = () if breeds(strategy) else _BREEDING
    if not isinstance(strategy, (CycleQDConfig, PythonStrategyConfig, *_MIXED)):
        ignored += ("warm_start",)
    for key in ignored:
        if getattr(evolution, key) != EvolutionConfig.model_fields[key].default:
            if evolution.preset is not None and key in PRESETS[newest(evolution.preset)].get("evolution", {}):
                stated = f"`preset: {evolution.preset}` states `{key}`"
                raise KeyProblem(
                    f"{stated}, and {kind} takes no notice of it; leave the preset out", "evolution", "preset"
                )
            unless = " unless `strategy.bred` is above 0" if isinstance(strategy, _MIXED) else ""
            raise KeyProblem(f"{kind} takes no notice of it{unless}; leave it out", "evolution", key)


class PresetStrategyConfig(StrictConfig):
    """Base of what has a `strategy` and an `evolution`, whose preset sets the strategy if none is stated."""

    @model_validator(mode="wrap")
    @classmethod
    def _with_preset_strategy(cls, stated: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        filled = preset_strategy(stated)
        config = handler({**stated, **filled} if filled else stated)
        config.model_fields_set.difference_update(filled)
        return config


class NamedStrategyConfig(PresetStrategyConfig):
    """A strategy of your own for `compare`."""

    strategy: StrategyConfig = CycleQDConfig()
    """What proposes children."""
    evolution: EvolutionConfig = EvolutionConfig()
    """Its operators; generations, seed, bins and bounds are the recipe's."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        require_heeded(self.evolution, self.strategy)
        return self
