"""Searches by name, as `compare` sets them against each other: what each makes of a recipe."""

from __future__ import annotations

from typing import Any

from cycleqd_merge.config.presets import preset_strategy
from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.config.validation_errors import suggestion
from cycleqd_merge.errors import UserError

AS_STATED = "recipe"
"""The name of the search that the recipe itself states."""
_SHARED = ("generations", "seed", "bins", "bounds")
"""Keys of `evolution` that belong to the comparison, not to one of its searches."""
_PAPER: dict[str, Any] = {"preset": "paper"}
_NAMED: dict[str, dict[str, Any]] = {
    "recommended": {"evolution": {"preset": "recommended"}},
    "paper": {"evolution": _PAPER},
    "no-mutation": {"evolution": {**_PAPER, "mutation": {"kind": "none"}}},
    "gaussian-mutation": {"evolution": {**_PAPER, "mutation": {"kind": "gaussian"}}},
    "random-sampling": {"evolution": {**_PAPER, "sampling": "random"}},
    "published-sampling": {"evolution": {**_PAPER, "sampling": "published"}},
    "map-elites": {"evolution": {**_PAPER, "cycling": False}},
    "random": {"strategy": {"kind": "random"}},
    "cma-es": {"strategy": {"kind": "cma-es"}},
    "bayesian": {"strategy": {"kind": "bayesian"}},
    "cma-me": {"strategy": {"kind": "cma-me"}},
    "nsga2": {"strategy": {"kind": "nsga2"}},
    "mergekit": {"strategy": {"kind": "mergekit"}},
}
_GROUPED = ("random", "cma-es", "cma-me", "nsga2", "bayesian")
_GROUPS = "-groups"
"""Behind the name of a search over coefficients: with the recipe's groups instead of one."""
STRATEGIES = (AS_STATED, *_NAMED, *(name + _GROUPS for name in _GROUPED))


def with_strategy(recipe: Recipe, name: str) -> Recipe:
    """The recipe with another search: one of its own `searches`, or one of `STRATEGIES`.

    Models, tasks, seed, generations, bins and bounds stay the recipe's, and so does the rank of singular bases where it
    states one; operators are those of the search that `name` means.

    Raises:
        UserError: no search has this name, or it needs groups and the recipe states none.
    """
    if name == AS_STATED:
        return recipe
    stated = recipe.model_dump(mode="json", exclude_unset=True)
    search = stated["searches"][name] if name in recipe.searches else _named(recipe, name)
    own = stated.get("evolution", {})
    operators = {key: value for key, value in search.get("evolution", {}).items() if key not in _SHARED}
    evolution = operators | {key: own[key] for key in _SHARED if key in own}
    rank = recipe.evolution.mutation.rank if recipe.evolution.mutation.kind == "svd" else None
    mutation = evolution.get("mutation", {})
    if rank is not None and mutation.get("kind", "svd") == "svd":
        evolution["mutation"] = {**mutation, "rank": rank}
    named = {"strategy": search["strategy"]} if "strategy" in search else {}
    strategy = named or preset_strategy({"evolution": evolution}) or {"strategy": {"kind": "cycleqd"}}
    return Recipe.model_validate({**stated, **strategy, "evolution": evolution})


def _named(recipe: Recipe, name: str) -> dict[str, Any]:
    """Strategy and operators of one of `STRATEGIES`, as a recipe states them."""
    if name not in STRATEGIES:
        known = [*recipe.searches, *STRATEGIES]
        raise UserError(f"no search is named {name!r}{suggestion(name, known)}; there are {', '.join(known)}")
    search = _NAMED[name.removesuffix(_GROUPS)]
    if not name.endswith(_GROUPS) and name != "recommended":
        return search
    if recipe.evolution.groups == "one":
        if name == "recommended":
            return search
        raise UserError(f"{name}: the recipe states no `evolution.groups`")
    groups = recipe.evolution.model_dump(mode="json", include={"groups"})
    return {**search, "evolution": search.get("evolution", {}) | groups}
