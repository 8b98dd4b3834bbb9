"""Static merges: methods of mergekit and of `matrix_merges` over a recipe's experts, with a few parameter values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, permutations, product, zip_longest
from typing import Any

import yaml

from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.config.strategies import MergekitConfig
from cycleqd_merge.config.validation_errors import suggestion
from cycleqd_merge.errors import RecipeError
from cycleqd_merge.evolution.candidate import MergekitConfiguration
from cycleqd_merge.evolution.draws import new_seed

Values = Mapping[str, Sequence[float | bool]]
_SUMMED: Values = {"weight": (1.0,), "lambda": (0.3, 0.5, 0.7, 1.0)}
_AVERAGED: Values = {"weight": (1.0,), "lambda": (1.0, 1.5, 2.0)}  # dividing by the weights shrinks task vectors
_SPARSE = {"density": (0.3, 0.6)}
_GRIDS: dict[str, Values] = {
    "linear": {"weight": (1.0,)},
    "task_arithmetic": _SUMMED,
    "ties": {**_AVERAGED, **_SPARSE},
    "dare_ties": {**_SUMMED, **_SPARSE},
    "dare_linear": {**_SUMMED, **_SPARSE},
    "della": {**_AVERAGED, **_SPARSE},
    "della_linear": {**_SUMMED, **_SPARSE},
    "breadcrumbs": {**_SUMMED, "density": (0.6, 0.9)},
    "breadcrumbs_ties": {**_SUMMED, "density": (0.6, 0.9)},
    "sce": {"select_topk": (0.1, 0.5, 1.0)},
    "slerp": {"t": (0.3, 0.5, 0.7)},
    "nuslerp": {"weight": (1.0,)},
    "multislerp": {"weight": (1.0,)},
    "nearswap": {"t": (0.0001, 0.001)},
}
_OWN_GRIDS: dict[str, Values] = {
    "tsv_m": {"scale": (0.7, 1.0, 1.5)},
    "iso_c": {"scale": (0.7, 1.0, 1.5)},
    "wudi": {"scale": (0.5, 0.7, 1.0)},
    "swudi": {"scale": (0.5, 0.7, 1.0)},
    "sign_aligned": {"weight": (1.0,), "scale": (0.5, 0.7, 1.0)},
}
"""Values per parameter; a method that is not listed is tried once, if it has no required parameter."""


def static_merges(recipe: Recipe, setting: MergekitConfig) -> list[tuple[MergekitConfiguration, dict[str, Any]]]:
    """All configurations of a recipe's strategy, each with its step: method, models and parameters.

    Methods that merge two models are tried on every pair of experts. The run's seed determines their random draws.

    Raises:
        RecipeError: mergekit has no such method or parameter, or a method cannot merge this number of models.
    """
    from mergekit.merge_methods.registry import registered_methods  # late: both import torch, and few runs need this

    from cycleqd_merge.merging.mergekit_config import MERGE_METHOD
    from cycleqd_merge.merging.mergekit_matrix_merges import MATRIX_MERGES  # which registers them

    no_merge = ("passthrough", MERGE_METHOD)
    specs = {method.spec.name: method.spec for method in registered_methods() if method.spec.name not in no_merge}
    grids = {**_GRIDS, **_OWN_GRIDS, **setting.grid}
    for name in [*(setting.methods or []), *setting.grid]:
        if name not in specs:
            raise RecipeError(f"strategy: mergekit has no method {name!r}{suggestion(name, specs)}")
    mergekits = [name for name in specs if name not in MATRIX_MERGES]  # the others never join runs that name none
    chosen = list(dict.fromkeys(setting.methods or [*_GRIDS, *setting.grid, *mergekits]))
    found: list[list[tuple[MergekitConfiguration, dict[str, Any]]]] = []
    for name in chosen:
        if name not in specs:  # in `_GRIDS`, but not in the installed mergekit
            continue
        steps = list(_steps(specs[name], grids.get(name, {}), list(recipe.experts)))
        if not steps and setting.methods is not None:
            what = f"{name} cannot merge {len(recipe.experts)} experts, or has required parameters"
            raise RecipeError(f"strategy: {what}; give their values in `grid`")
        found.append([(_configuration(recipe, specs[name], step), step) for step in steps])
    rounds = zip_longest(*found)  # the first of every method, then the second: a small budget tries every method
    return [each for turn in rounds for each in turn if each is not None]


def _steps(spec: Any, grid: Values, experts: list[str]) -> Iterator[dict[str, Any]]:
    """The models and parameter values that a method is tried with; none if it cannot merge these experts."""
    known = {parameter.name: parameter for parameter in spec.parameters}
    for name in grid:
        if name not in known:
            raise RecipeError(f"strategy: grid: {spec.name} has no parameter {name!r}{suggestion(name, known)}")
    if any(parameter.required and name not in grid for name, parameter in known.items()):
        return
    for models in _models(spec, experts):
        for values in product(*grid.values()):
            yield {"merge": spec.name, "models": models, "parameters": dict(zip(grid, values, strict=True))}


def _models(spec: Any, experts: list[str]) -> list[list[str]]:
    """The lists of experts to merge; if a method of two models takes one of them as its base, that comes first."""
    contract = spec.contract
    if contract.max_inputs == 2 and contract.base.value == "required":
        symmetric = spec.name == "slerp"  # t runs both ways
        return [list(pair) for pair in (combinations if symmetric else permutations)(experts, 2)]
    if 2 in (contract.max_inputs, contract.max_non_base):
        return [list(pair) for pair in combinations(experts, 2)]
    inputs = len(experts) + (contract.base.value == "required")
    most = math.inf if contract.max_inputs is None else contract.max_inputs
    return [experts] if contract.min_inputs <= inputs <= most else []


def _configuration(recipe: Recipe, spec: Any, step: Mapping[str, Any]) -> MergekitConfiguration:
    """The configuration of a step; its models are pinned to commits when the run is opened."""
    from cycleqd_merge.merging.mergekit_references import model_reference, reference_value  # late, as above

    references = [reference_value(model_reference(recipe.experts[name])) for name in step["models"]]
    scopes = {parameter.name: parameter.scope.value for parameter in spec.parameters}
    own = {name: value for name, value in step["parameters"].items() if scopes[name] != "shared"}
    shared = {name: value for name, value in step["parameters"].items() if scopes[name] == "shared"}
    models = [{"model": reference} | ({"parameters": own} if own else {}) for reference in references]
    record: dict[str, Any] = {"merge_method": spec.name, "models": models, "dtype": "float32"}
    if spec.contract.max_inputs == 2 and spec.contract.base.value == "required":
        record["base_model"] = references[0]
    elif spec.contract.base.value != "ignored":
        record["base_model"] = reference_value(model_reference(recipe.base))
    if shared:
        record["parameters"] = shared
    seed = new_seed(recipe.evolution.seed, spec.name, repr(sorted(step["parameters"].items()))) % 2**32
    return MergekitConfiguration(yaml.safe_dump(record, sort_keys=False, width=math.inf), seed)
