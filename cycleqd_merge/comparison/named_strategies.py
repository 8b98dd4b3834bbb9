"""The strategies that `compare` knows by name, and the recipe of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pydantic import TypeAdapter

from cycleqd_merge.config.fine_tuning import FineTuningConfig
from cycleqd_merge.config.loading import fix_presets, parse
from cycleqd_merge.config.presets import with_fixed_presets
from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.config.regmean import RegMeanConfig
from cycleqd_merge.config.strategies import LearnedConfig
from cycleqd_merge.config.validation_errors import suggestion
from cycleqd_merge.errors import RecipeError

AS_STATED = "recipe"
"""The name of the recipe's own strategy."""
_SHARED = ("generations", "seed", "bins", "bounds", "archive")
"""Keys of `evolution` that all strategies of a comparison share."""
_PAPER: dict[str, Any] = {"preset": "paper"}
_NAMED: dict[str, dict[str, Any]] = {
    "recommended": {"evolution": {"preset": "recommended"}},
    "fits": {"strategy": {"kind": "none"}, "fit": {}},
    "paper": {"evolution": _PAPER},
    "no-mutation": {"evolution": {**_PAPER, "mutation": {"kind": "none"}}},
    "gaussian-mutation": {"evolution": {**_PAPER, "mutation": {"kind": "gaussian"}}},
    "random-sampling": {"evolution": {**_PAPER, "sampling": "random"}},
    "published-sampling": {"evolution": {**_PAPER, "sampling": "published"}},
    "binned-sampling": {"evolution": {**_PAPER, "sampling": "binned"}},
    "map-elites": {"evolution": {**_PAPER, "cycling": False}},
    "random": {"strategy": {"kind": "random"}},
    "cma-es": {"strategy": {"kind": "cma-es"}},
    "subset": {
        "strategy": {"kind": "cma-es"},
        "evolution": {"race": {"share": 0.1, "rows": "difficulty", "best": 3}},
    },
    "bayesian": {"strategy": {"kind": "bayesian"}},
    "cma-me": {"strategy": {"kind": "cma-me"}},
    "nsga2": {"strategy": {"kind": "nsga2"}},
    "mergekit": {"strategy": {"kind": "mergekit"}},
    "matrix-merges": {
        "strategy": {"kind": "mergekit", "methods": ["tsv_m", "iso_c", "swudi", "wudi", "sign_aligned"]},
    },
}
_GROUPED = ("random", "cma-es", "subset", "cma-me", "nsga2", "bayesian")
_OPTIONALLY_GROUPED = ("recommended", "fits")
"""Strategies that use the recipe's coefficient groups if it states any."""
_GROUPS = "-groups"
"""Suffix of a strategy's name: with the recipe's coefficient groups instead of one."""
_LEARNED: dict[str, LearnedConfig] = {"fine-tuning": FineTuningConfig(), "regmean": RegMeanConfig()}
"""Strategies whose models are learned without a search."""
STRATEGIES = (AS_STATED, *_LEARNED, *_NAMED, *(name + _GROUPS for name in _GROUPED))


def with_strategy(recipe: Recipe, name: str, versions: Mapping[str, str] = MappingProxyType({})) -> Recipe:
    """The recipe with a different strategy: one of its own `strategies`, or one of `STRATEGIES`.

    Models, tasks, seed, generations, archives and their bounds stay the recipe's, and so does the rank of singular
    bases if it sets one; the operators are those of the strategy. versions: of presets without one; see
    `with_fixed_presets`.

    Raises:
        RecipeError: no strategy has this name, or it needs groups and the recipe sets none.
    """
    if name == AS_STATED:
        return fix_presets(recipe, versions)
    stated = recipe.model_dump(mode="json", exclude_unset=True)
    named = stated["strategies"][name] if name in recipe.strategies else _named(recipe, name)
    own = stated.get("evolution", {})
    operators = {key: value for key, value in named.get("evolution", {}).items() if key not in _SHARED}
    evolution = operators | {key: own[key] for key in _SHARED if key in own}
    rank = recipe.evolution.mutation.rank if recipe.evolution.mutation.kind == "svd" else None
    mutation = evolution.get("mutation", {})
    if rank is not None and mutation.get("kind", "svd") == "svd" and mutation.get("of") != "child":
        evolution["mutation"] = {**mutation, "rank": rank}
    fixed = with_fixed_presets({**named, "evolution": evolution}, versions)
    shared = {key: value for key, value in stated.items() if key != "fit"}
    whole = {**shared, "strategy": {"kind": "cycleqd"}, **fixed}
    return parse(TypeAdapter(Recipe), whole, f"strategy {name}", recipe)


def learned_strategies(recipe: Recipe, names: Sequence[str]) -> dict[str, LearnedConfig]:
    """The settings of those strategies among `names` whose models are learned without a search; all others are runs."""
    own = {name: each.learned for name, each in recipe.strategies.items() if each.learned is not None}
    known = own | _LEARNED
    return {name: known[name] for name in names if name in known}


def _named(recipe: Recipe, name: str) -> dict[str, Any]:
    """Strategy and operators of one of `STRATEGIES`, as a recipe states them."""
    if name not in STRATEGIES:
        known = [*recipe.strategies, *STRATEGIES]
        raise RecipeError(f"no strategy is named {name!r}{suggestion(name, known)}; available: {', '.join(known)}")
    named = _NAMED[name.removesuffix(_GROUPS)]
    if name == "fits" and recipe.fit is not None:
        named = {**named, "fit": recipe.fit.model_dump(mode="json", exclude_defaults=True)}
    if not name.endswith(_GROUPS) and name not in _OPTIONALLY_GROUPED:
        return named
    if recipe.evolution.groups == "one":
        if name in _OPTIONALLY_GROUPED:
            return named
        raise RecipeError(f"{name}: the recipe sets no `evolution.groups`; set them, or leave this strategy out")
    groups = recipe.evolution.model_dump(mode="json", include={"groups"})
    return {**named, "evolution": named.get("evolution", {}) | groups}
