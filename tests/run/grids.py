"""A user's strategy that proposes mergekit configurations, as a recipe names it: `tests.run.grids:Grid`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from cycleqd_merge.evolution.space import SearchSpace
from cycleqd_merge.evolution.strategy import MergeConfiguration, Proposal, Result

METHODS = ("linear", "ties", "slerp", "dare_ties")
SEED = 3
"""What `dare_ties` draws from."""


def grid(base: str, experts: list[str], dtype: str = "bfloat16") -> list[tuple[str, MergeConfiguration]]:
    """A configuration of each method, in the order of `METHODS`; the last two are strings mergekit did not write."""
    weighted = [{"model": expert, "parameters": {"weight": 0.6, "density": 0.5}} for expert in experts]
    stated: dict[str, dict[str, Any]] = {
        "linear": {"models": [{"model": expert, "parameters": {"weight": 0.5}} for expert in experts]},
        "ties": {"base_model": base, "models": weighted, "parameters": {"normalize": True}},
        "slerp": {"base_model": base, "models": [{"model": experts[0]}], "parameters": {"t": 0.3}},
        "dare_ties": {"base_model": base, "models": weighted},
    }
    found = []
    for method in METHODS:
        text = yaml.safe_dump({"merge_method": method, "dtype": dtype, **stated[method]}, sort_keys=False)
        found.append((method, MergeConfiguration(text, SEED if method == "dare_ties" else 0)))
    return found


class Grid:
    """Evaluates the founders, then a configuration of each method over base and experts, then the experts' mean."""

    def __init__(self, space: SearchSpace, seed: int, models: Mapping[str, Any]) -> None:
        self.space, self.grid = space, grid(models["base"], models["experts"])

    def ask(self, number: int) -> Proposal | None:
        """See `Strategy`."""
        if number < self.space.first:
            return self.space.founder(number)
        method, candidate = self.grid[(number - self.space.first) % len(self.grid)]
        return self.space.propose(number, candidate, {"method": method})

    def tell(self, result: Result) -> None:
        """See `Strategy`."""
        self.space.tell(result)
