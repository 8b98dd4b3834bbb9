"""A recipe's search space and operators."""

from __future__ import annotations

from typing import Any

import pytest

from cycleqd_merge.strategies.factory import build_operators, build_space
from cycleqd_merge.strategies.space import Floor, Objective
from cycleqd_merge.strategies.state import SearchState
from tests.run.synthetic import synthetic_recipe


def test_a_recipe_becomes_the_search_space_it_describes() -> None:
    recipe = synthetic_recipe(
        tasks=[
            {"task": "safety", "role": "keep", "floor": 0.4},
            {"task": "sql", "expert": "sql", "bins": 4},
            {"task": "tone", "role": "keep"},
            {"task": "bash", "bounds": [0.1, 0.9]},
            {"task": "facts", "role": "keep", "floor": 0.2},
        ],
        evolution={"bins": 9, "seed": 8, "mutation": {"kind": "svd", "w_max": 0.7, "signed": True}, "sigma": 0.01},
    )
    space = build_space(recipe, groups=3)
    assert space.objectives == (Objective("sql", 0, 4), Objective("bash", None, 9, (0.1, 0.9)))
    assert space.floors == (Floor(2, 0.4), Floor(4, 0.2))
    assert (space.experts, space.groups) == (3, 3)
    stated = build_operators(recipe.evolution)
    assert (stated.mutation, stated.scale, stated.signed, stated.sigma) == ("svd", 0.7, True, 0.01)


@pytest.mark.parametrize(("stated", "scale"), [({"kind": "gaussian", "std": 0.02}, 0.02), ({"kind": "none"}, 0.0)])
def test_other_mutations_reach_the_strategy(stated: dict[str, Any], scale: float) -> None:
    found = build_operators(synthetic_recipe(evolution={"mutation": stated}).evolution)
    assert (found.mutation, found.scale) == (stated["kind"], scale)


def test_defaults_are_the_papers() -> None:
    found = build_operators(synthetic_recipe().evolution)
    assert (found.mu, found.sigma, found.scale) == (1.0, 0.03, 0.3)
    assert (found.alpha_low, found.alpha_high) == (0.5, 0.8)
    assert build_space(synthetic_recipe(), 1).factors == (0.85, 1.15)
    assert build_space(synthetic_recipe(tasks=[{"task": "a"}, {"task": "b"}]), 1).objectives[0].bins == 15


def test_the_state_offers_the_settings_that_users_strategies_read() -> None:
    state = SearchState(build_space(synthetic_recipe(evolution={"warm_start": [0.5]}), groups=2))
    for name in ("objectives", "experts", "groups", "floors", "levels", "first"):
        assert getattr(state, name) == getattr(state.space, name)
