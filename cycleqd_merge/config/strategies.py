"""The strategies that a recipe can choose, and their settings."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    model_validator,
)

from cycleqd_merge.config.evolution import EvolutionConfig
from cycleqd_merge.config.fine_tuning import FineTuningConfig
from cycleqd_merge.config.fit import FitConfig
from cycleqd_merge.config.presets import PRESETS, newest, preset_fit, preset_sections
from cycleqd_merge.config.regmean import RegMeanConfig
from cycleqd_merge.config.validation_errors import KeyProblem
from cycleqd_merge.config.values import LARGE, Moderate, Name, PythonTargetConfig, StrictConfig, Unit

MAX_POPULATION = 100_000


class CycleQDConfig(StrictConfig):
    """CycleQD, with the operators in `evolution`."""

    kind: Literal["cycleqd"] = "cycleqd"


class CoefficientRangeConfig(StrictConfig):
    """A range of coefficients: the share of an expert's task vector in each group of tensors."""

    low: Moderate = 0.0
    """Lower end."""
    high: Moderate = 1.0
    """Upper end."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise KeyProblem(f"{self.low} is not below high, which is {self.high}", "low")
        return self


class RandomConfig(CoefficientRangeConfig):
    """Random search: every coefficient is drawn uniformly from a range."""

    kind: Literal["random"]


class CmaEsConfig(StrictConfig):
    """CMA-ES over the coefficients of all experts and groups; maximises a weighted mean of the scores."""

    kind: Literal["cma-es"]
    start: Moderate | None = None
    """Initial value of all coefficients; by default 1 / experts, the experts' plain mean. With fits the search starts
    from the first fit, and this cannot be set."""
    sigma: float = Field(0.2, gt=0, le=LARGE)
    """Initial standard deviation of every coefficient."""
    population: int | None = Field(None, ge=2, le=MAX_POPULATION)
    """Children per population; by default `cma`'s choice for the number of coefficients."""
    weights: dict[Name, Annotated[float, Field(ge=0, le=LARGE)]] | None = None
    """Weight of each task's score in the objective; by default equal weights."""


class CmaMeConfig(StrictConfig):
    """CMA-ME over the coefficients of all experts and groups: one CMA-ES per task's archive, ranked by how children
    improve it, and one for the mean score, in turns; optionally also children created by CycleQD's operators."""

    kind: Literal["cma-me"]
    start: Moderate | None = None
    """Initial value of all coefficients; by default 1 / experts, the experts' plain mean. With fits the search starts
    from the first fit, and this cannot be set."""
    sigma: float = Field(0.2, gt=0, le=LARGE)
    """Initial standard deviation of every coefficient."""
    population: int | None = Field(None, ge=2, le=MAX_POPULATION)
    """Children per population; by default `ribs`' choice for the number of coefficients."""
    bred: Unit = 0.0
    """Share of children that CycleQD's operators, including mutation, create from the same archives instead."""


class BayesianConfig(StrictConfig):
    """Bayesian optimisation over the coefficients of all experts and groups: Gaussian processes predict every task's
    score, and children alternate between the best predicted mean and the largest gain of the Pareto front; optionally
    also children created by CycleQD's operators. Learns most from few evaluations."""

    kind: Literal["bayesian"]
    optimism: float = Field(1.0, ge=0, le=LARGE)
    """Standard deviations added to the predicted score when candidates are compared; higher values explore more."""
    noise: Literal["fitted", "rows"] = "fitted"
    """Noise of the scores that the Gaussian processes assume: fitted to all models, or known from each model's rows."""
    bred: Unit = 0.0
    """Share of children that CycleQD's operators, including mutation, create from the same archives instead."""


class Nsga2Config(CoefficientRangeConfig):
    """NSGA-II over the coefficients of all experts and groups, with one objective per task."""

    kind: Literal["nsga2"]
    population: int = Field(20, ge=4, le=MAX_POPULATION)
    """Children per population."""


class MergekitConfig(StrictConfig):
    """Static merges: mergekit's methods with a grid of parameters, one after another, built by mergekit itself."""

    kind: Literal["mergekit"]
    methods: list[str] | None = Field(None, min_length=1)
    """Methods by mergekit's names, or this package's `tsv_m`, `iso_c`, `wudi`, `swudi` and `sign_aligned`; by default
    all of mergekit's that apply to the recipe's models."""
    grid: dict[str, dict[str, Annotated[list[Moderate | bool], Field(min_length=1)]]] = Field(default_factory=dict)
    """Values of parameters to try, by method and parameter, instead of the method's small default grid. `weight`
    applies to every expert."""


class NoSearchConfig(StrictConfig):
    """No search: the experts, the recipe's fits and other founders are scored, and no children are proposed."""

    kind: Literal["none"]


class PythonStrategyConfig(PythonTargetConfig):
    """Your own strategy: a class as described in docs/python.md, created with the state, the seed and `options`."""

    kind: Literal["python"]


StrategyConfig = Annotated[
    CycleQDConfig
    | RandomConfig
    | CmaEsConfig
    | CmaMeConfig
    | BayesianConfig
    | Nsga2Config
    | MergekitConfig
    | NoSearchConfig
    | PythonStrategyConfig,
    Field(discriminator="kind"),
]


_OPERATOR_KEYS: tuple[str, ...] = ("scaling", "mates", "adaptive")
"""Keys of `evolution` that only CycleQD's operators use."""

_MIXED = (CmaMeConfig, BayesianConfig)
"""Strategies that create a share of their children by CycleQD's operators."""


def uses_operators(strategy: StrategyConfig) -> bool:
    """Whether CycleQD's operators create any of a strategy's children; a strategy in Python has its own."""
    return strategy.kind == "cycleqd" or (isinstance(strategy, _MIXED) and strategy.bred > 0)


def mutates(strategy: StrategyConfig) -> bool:
    """Whether a strategy may mutate children; one in Python may."""
    return strategy.kind == "python" or uses_operators(strategy)


def require_used(evolution: EvolutionConfig, strategy: StrategyConfig, fit: FitConfig | None) -> None:
    """Refuse settings of `evolution` that the strategy would ignore, and a start other than the fits.

    A strategy in Python receives the warm starts and may use them.

    Raises:
        KeyProblem: there is one; its `at` starts with `evolution` or `strategy`.
    """
    kind = strategy.kind
    if fit is not None and isinstance(strategy, CmaEsConfig | CmaMeConfig) and strategy.start is not None:
        message = "cannot be combined with `fit`, because the search then starts from the first fit; remove one of them"
        raise KeyProblem(message, "strategy", "start")
    if kind == "cma-me" and not evolution.cycling:
        raise KeyProblem("CMA-ME requires `cycling: true`: it improves one archive per task", "evolution", "cycling")
    if kind == "bayesian" and not evolution.cycling:
        raise KeyProblem(
            "bayesian requires `cycling: true`: its `bred` children are created per task", "evolution", "cycling"
        )
    ignored = () if uses_operators(strategy) else _OPERATOR_KEYS
    if not isinstance(strategy, (CycleQDConfig, PythonStrategyConfig, *_MIXED)):
        ignored += ("warm_start",)
    for key in ignored:
        if getattr(evolution, key) != EvolutionConfig.model_fields[key].default:
            if evolution.preset is not None and key in PRESETS[newest(evolution.preset)].get("evolution", {}):
                stated = f"`preset: {evolution.preset}` sets `{key}`"
                raise KeyProblem(f"{stated}, which {kind} does not use; remove the preset", "evolution", "preset")
            unless = " unless `strategy.bred` is above 0" if isinstance(strategy, _MIXED) else ""
            raise KeyProblem(f"{kind} does not use it{unless}; remove it", "evolution", key)


class PresetStrategyConfig(StrictConfig):
    """Base of configurations with `strategy`, `fit` and `evolution`; a preset sets the first two unless given."""

    fit: FitConfig | None = None
    """Fits: merges that are learned by gradient before the search starts; by default none."""

    @model_validator(mode="wrap")
    @classmethod
    def _with_preset_sections(cls, stated: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        filled, own = preset_sections(stated), preset_fit(stated)
        fit = {"fit": {**own, **stated["fit"]}} if own else {}
        config = handler({**stated, **filled, **fit} if filled or fit else stated)
        config.model_fields_set.difference_update(filled)  # they are not stated: see `EvolutionConfig`
        if config.fit is not None:
            config.fit.model_fields_set.difference_update(own)
        return config


LearnedConfig = FineTuningConfig | RegMeanConfig
"""How a model of `compare` is learned without a search."""


class NamedStrategyConfig(PresetStrategyConfig):
    """A strategy of your own for `compare`."""

    strategy: StrategyConfig = CycleQDConfig()
    """The strategy that proposes children."""
    evolution: EvolutionConfig = EvolutionConfig()
    """Its operators; generations, seed, archives and their bounds are the recipe's."""
    fine_tuning: FineTuningConfig | None = None
    """Fine-tune all weights of the experts' merge instead of searching."""
    regmean: RegMeanConfig | None = None
    """Merge the experts by RegMean instead of searching."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        require_used(self.evolution, self.strategy, self.fit)
        own = "regmean" if self.regmean is not None else "fine_tuning"
        other = self.model_fields_set & {"strategy", "evolution", "fit", "fine_tuning"} - {own}
        if self.learned is not None and other:
            message = f"cannot be combined with `{min(other)}`, because it does not search; remove one of them"
            raise KeyProblem(message, own)
        return self

    @property
    def learned(self) -> LearnedConfig | None:
        """How the strategy's model is learned without a search; None if it searches."""
        return self.fine_tuning if self.regmean is None else self.regmean
