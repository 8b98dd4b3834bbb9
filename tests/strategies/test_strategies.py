"""Rules that hold for every strategy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

from cycleqd_merge.evolution.archive import Scores
from cycleqd_merge.evolution.genome import coefficient_genome
from cycleqd_merge.strategies.bayesian import Bayesian
from cycleqd_merge.strategies.cycleqd import CycleQD, Operators
from cycleqd_merge.strategies.listed import Listed
from cycleqd_merge.strategies.map_elites import MapElites
from cycleqd_merge.strategies.mixed import Mixed
from cycleqd_merge.strategies.optimisers import Nsga2, PopulationStrategy, RandomSearch
from cycleqd_merge.strategies.protocol import Proposal, Strategy
from cycleqd_merge.strategies.space import Floor
from cycleqd_merge.strategies.state import SearchState
from tests.strategies.test_cma_me import cma_me
from tests.strategies.test_optimisers import cma_es
from tests.strategies.toy import coefficients, fresh, play, score


def bayesian(state: SearchState, share: float) -> Mixed:
    """`share` of the children are created by CycleQD's operators."""
    return Mixed(Bayesian(state, 1.0, 3), CycleQD(state, Operators(), 3), share)


STRATEGIES: dict[str, Callable[[SearchState], Strategy]] = {
    "random": lambda state: RandomSearch(state, 3, -0.5, 1.5),
    "cma-es": lambda state: PopulationStrategy(state, cma_es()),
    "nsga2": lambda state: PopulationStrategy(state, Nsga2(4, 2, 8, -0.5, 1.5, 3)),
    "cma-me": lambda state: cma_me(0.0, state=state),
    "cma-me and operators": lambda state: cma_me(0.4, state=state, adaptive=True, scaling=(1.0, 1.6)),
    "bayesian": lambda state: bayesian(state, 0.0),
    "bayesian and operators": lambda state: bayesian(state, 0.4),
    "map-elites": lambda state: MapElites(state, Operators(), 3),
}


@pytest.mark.parametrize("kind", STRATEGIES)
@pytest.mark.parametrize("in_flight", [1, 5])
def test_the_same_results_give_the_same_proposals(kind: str, in_flight: int) -> None:
    first, again = (play(STRATEGIES[kind](fresh()), 70, in_flight=in_flight) for _ in range(2))
    assert [(each.number, each.step) for each in first] == [(each.number, each.step) for each in again]
    assert coefficients(first) == coefficients(again)
    assert len({str(each.candidate.to_json()) for each in first}) > 60


@pytest.mark.parametrize("kind", STRATEGIES)
def test_failed_children_and_those_below_a_floor_never_become_elites(kind: str) -> None:
    state = fresh(floors=(Floor(2, 0.4),))

    def scorer(proposal: Proposal) -> Scores | None:
        if proposal.number >= 2 and proposal.number % 5 == 0:
            return None
        return (*score(proposal)[:2], 0.3 if proposal.number >= 2 and proposal.number % 3 == 0 else 0.9)

    play(STRATEGIES[kind](state), 100, scorer)
    elites = {each.number for archive in state.archives for each in archive.elites()}
    assert len(elites) > 5
    assert not any(number >= 2 and (number % 5 == 0 or number % 3 == 0) for number in elites)


def test_listed_candidates_are_proposed_in_order() -> None:
    listed = [(coefficient_genome(np.full((2, 2), level)), {"level": level}) for level in (0.1, 0.2, 0.3)]
    search = Listed(fresh(), listed)
    assert search.generations == 3
    assert [each.step for each in play(search, 3)[2:]] == [{"level": level} for level in (0.1, 0.2, 0.3)]


def test_the_factory_imports_no_library_of_an_optimiser() -> None:
    heavy = {"cma", "mergekit", "moocore", "pymoo", "ribs", "scipy", "sklearn", "torch"}
    code = f"import sys, cycleqd_merge.strategies.factory; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True, timeout=120)
    assert found.stdout.strip() == "[]"
