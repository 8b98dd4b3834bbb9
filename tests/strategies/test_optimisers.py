"""CMA-ES, NSGA-II and random search, compared with plain loops over the libraries that they use."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cma import CMAEvolutionStrategy
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.problem import Problem
from pymoo.optimize import minimize

from cycleqd_merge.errors import RecipeError
from cycleqd_merge.evolution.draws import generator, new_seed
from cycleqd_merge.evolution.genome import Matrix
from cycleqd_merge.strategies.optimisers import CmaEs, Nsga2, PopulationStrategy, RandomSearch
from cycleqd_merge.strategies.protocol import Result, Strategy
from cycleqd_merge.strategies.schedule import Schedule
from cycleqd_merge.strategies.space import Floor
from tests.strategies.toy import coefficients, fresh, play, score, scores_of


def cma_es(population: int | None = None, seed: int = 3) -> CmaEs:
    return CmaEs(np.full(4, 0.5), 0.2, population, np.array([3.0, 1.0]), seed)


def test_cma_es_proposes_what_cma_itself_does() -> None:
    """A plain ask-and-tell loop over `cma` on the weighted mean; the only difference is rounding to six decimals."""
    rng = generator(3, "cma-es")
    options = {"verbose": -9, "seed": np.nan, "randn": lambda *shape: rng.standard_normal(shape), "popsize": 6}
    wanted, search = [], CMAEvolutionStrategy(np.full(4, 0.5), 0.2, options)
    for _ in range(12):
        population = search.ask()
        wanted += [child.tolist() for child in population]
        search.tell(population, [-np.dot([0.75, 0.25], scores_of(child.round(6))) for child in population])
    found = play(PopulationStrategy(fresh(), cma_es(6)), 72)
    np.testing.assert_allclose(coefficients(found)[2:], wanted, atol=1e-5)


def test_cma_es_converges_and_restarts_with_a_larger_population() -> None:
    search = PopulationStrategy(fresh(), CmaEs(np.zeros(4), 0.3, None, np.array([1.0, 0.0]), 0))
    best = max(scores_of(np.array(each))[0] for each in coefficients(play(search, 1500)))
    assert best > 0.9999
    assert len(search._population) == 16  # 8 children before it converged


def test_nsga2_proposes_what_pymoo_itself_does() -> None:
    class Tasks(Problem):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(n_var=4, n_obj=2, xl=-0.5, xu=1.5)
            self.seen: list[list[float]] = []

        def _evaluate(self, x: Matrix, out: dict[str, Matrix], *args: object, **more: object) -> None:
            self.seen += x.tolist()
            out["F"] = -np.array([scores_of(each.round(6)) for each in x])

    tasks = Tasks()
    minimize(tasks, NSGA2(pop_size=8), ("n_gen", 9), seed=new_seed(3, "nsga2") % 2**32)
    found = coefficients(play(PopulationStrategy(fresh(), Nsga2(4, 2, 8, -0.5, 1.5, 3)), 72))[2:]
    np.testing.assert_allclose(found, tasks.seen, atol=1e-6)


def play_in_races(strategy: Strategy, rejected: Callable[[int], bool], known: bool = True) -> Matrix:
    """Coefficients of 60 children; those that are rejected have the same scores as estimates, if these are `known`."""
    schedule = Schedule(strategy, 1, 62)
    waiting, proposals = schedule.ready(), []
    while not schedule.done:
        proposals.append(waiting.pop(0))
        number, scores = proposals[-1].number, score(proposals[-1])
        lost = Result(number, None, estimated=scores if known else None)
        waiting += schedule.tell(lost if number > 1 and rejected(number) else Result(number, scores))
    return np.array(coefficients(proposals)[2:])


@pytest.mark.parametrize(
    "optimiser", [lambda: cma_es(6), lambda: Nsga2(4, 2, 8, -0.5, 1.5, 3)], ids=["cma-es", "nsga2"]
)
def test_children_rejected_by_racing_are_compared_by_their_estimates(optimiser: Callable[[], Any]) -> None:
    half, none, unknown = (
        play_in_races(PopulationStrategy(fresh(), optimiser()), rejected, known)
        for rejected, known in (
            (lambda number: number % 2 == 0, True),
            (lambda number: False, True),
            (lambda number: number % 2 == 0, False),
        )
    )
    np.testing.assert_array_equal(half, none)
    assert not np.array_equal(unknown, none)


def test_rejected_children_below_a_floor_rank_below_all_others() -> None:
    floored = play_in_races(PopulationStrategy(fresh((Floor(2, 0.9),)), cma_es(6)), lambda number: number % 2 == 0)
    failed = play_in_races(PopulationStrategy(fresh((Floor(2, 0.9),)), cma_es(6)), lambda number: True, known=False)
    np.testing.assert_array_equal(floored, failed)


def test_nsga2_without_pymoo_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymoo.algorithms.moo.nsga2", None)
    with pytest.raises(RecipeError) as raised:
        Nsga2(4, 2, 8, -0.5, 1.5, 3)
    assert str(raised.value) == "strategy: nsga2 requires pymoo: pip install 'cycleqd-merge[nsga2]'"


def test_random_search_draws_evenly_from_its_range() -> None:
    drawn = np.array(coefficients(play(RandomSearch(fresh(), 1, -1.0, 3.0), 2000))[2:])
    assert drawn.min() >= -1.0
    assert drawn.max() <= 3.0
    np.testing.assert_allclose(drawn.mean(axis=0), 1.0, atol=0.15)
    np.testing.assert_allclose(drawn.std(axis=0), 4 / np.sqrt(12), atol=0.1)


def test_the_next_population_waits_for_all_results_of_the_last_one() -> None:
    search = PopulationStrategy(fresh(), cma_es(6))
    schedule = Schedule(search, in_flight=100, total=100)
    waiting = schedule.ready()
    assert [each.number for each in waiting] == [0, 1]
    for expected in ([], [2, 3, 4, 5, 6, 7], [], [], [], [], [], [8, 9, 10, 11, 12, 13]):
        proposal = waiting.pop(0)
        ready = schedule.tell(Result(proposal.number, score(proposal)))
        assert [each.number for each in ready] == expected
        waiting += ready
