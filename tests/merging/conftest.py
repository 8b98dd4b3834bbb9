"""Families of tiny models shared by the tests of this folder; no test may write into their folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from cycleqd_merge.config.evolution import LayerGroupsConfig
from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.evolution.genome import Genome, Mutation, crossover, expert_genome, mutate
from cycleqd_merge.merging.bases import prepare_bases
from cycleqd_merge.merging.family import ModelFamily
from cycleqd_merge.merging.groups import Groups
from cycleqd_merge.merging.materialise import Materialiser
from cycleqd_merge.merging.staging import Place
from tests.merging.processes import Report, reports_of_two_processes
from tests.models import Architecture, make_adapter, make_base, make_expert, make_recipe, on_base, open_recipe_family


@dataclass(frozen=True, repr=False)
class Trio:
    """A base with three experts: two full fine-tunes, `first` and `second`, and the LoRA adapter `third`.

    The adapter changes every linear layer by factors, and the last norm by a whole tensor.
    """

    architecture: Architecture
    base: Path
    experts: tuple[Path, Path, Path]
    recipe: Recipe
    family: ModelFamily

    def materialiser(self, groups: str | LayerGroupsConfig = "one", place: Place = "disk") -> Materialiser:
        bases = prepare_bases(self.family, range(3))
        return Materialiser(self.family, Groups(self.family.weights, groups), bases, place=place)


def make_trio(folder: Path, architecture: Architecture, tied: bool, dtype: torch.dtype) -> Trio:
    """The models of a `Trio` in `folder`, opened."""
    base = make_base(folder / "base", architecture, dtype, tied=tied)
    first, second = (make_expert(base, folder / name, seed) for seed, name in enumerate(("first", "second"), start=1))
    norm = "ln_f" if architecture == "gpt2" else "norm"
    third = make_adapter(base, folder / "third", seed=3, modules_to_save=[norm], exclude_modules=[norm])
    recipe = make_recipe(folder, base, {"first": first, "second": second, "third": on_base(base, third)})
    return Trio(architecture, base, (first, second, third), recipe, open_recipe_family(recipe))


@pytest.fixture(
    scope="session",
    params=[("llama", False), ("llama", True), ("qwen2", False), ("gpt2", True)],
    ids=["llama", "llama-tied", "qwen2", "gpt2"],
)
def trio(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trio:
    """A bfloat16 family of each architecture."""
    architecture, tied = request.param
    return make_trio(tmp_path_factory.mktemp(architecture), architecture, tied, torch.bfloat16)


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Trio:
    """One bfloat16 family, where the architecture does not matter."""
    return make_trio(tmp_path_factory.mktemp("llama"), "llama", False, torch.bfloat16)


def long_lineage(experts: int) -> Genome:
    """A genome of one group with every kind of mutation, after several crossovers."""
    one = mutate(expert_genome(0, experts, 1), Mutation("svd", 2, 1, 0.3))
    other = mutate(expert_genome(1, experts, 1), Mutation("svd", 0, 2, 0.3, signed=True))
    child = crossover(one, other, np.array([[1.01], [0.98]]))
    return crossover(mutate(child, Mutation("gaussian", None, 3, 0.001)), one, np.array([[0.97], [1.02]]))


@pytest.fixture(scope="session")
def elsewhere(llama: Trio, tmp_path_factory: pytest.TempPathFactory) -> list[Report]:
    """The reports of two processes that work on the `llama` family together, starting with an empty cache."""
    return reports_of_two_processes(tmp_path_factory.mktemp("elsewhere"), llama.recipe, long_lineage(3))
