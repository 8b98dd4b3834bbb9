"""The rivals of CycleQD as strategies, against the libraries that they are made of run plainly by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cma import CMAEvolutionStrategy
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.problem import Problem
from pymoo.optimize import minimize
from ribs.archives import GridArchive
from ribs.emitters import EvolutionStrategyEmitter

from cycleqd_merge.evolution.archive import Scores
from cycleqd_merge.evolution.draws import generator, new_seed
from cycleqd_merge.evolution.genome import Genome, Matrix, coefficient_genome
from cycleqd_merge.evolution.selection import published_weights
from cycleqd_merge.strategies.bayesian import Bayesian
from cycleqd_merge.strategies.cma_es import CmaEs
from cycleqd_merge.strategies.cma_me import CmaMe
from cycleqd_merge.strategies.cycleqd import CycleQD, Operators
from cycleqd_merge.strategies.listed import Listed
from cycleqd_merge.strategies.map_elites import MapElites
from cycleqd_merge.strategies.mixed import Mixed
from cycleqd_merge.strategies.nsga2 import Nsga2
from cycleqd_merge.strategies.populations import Populations
from cycleqd_merge.strategies.protocol import Proposal, Result, Strategy
from cycleqd_merge.strategies.random_search import RandomSearch
from cycleqd_merge.strategies.schedule import Schedule
from cycleqd_merge.strategies.space import Floor, Objective, SearchSpace

TARGETS = np.array([[0.9, 0.2, 0.1, 0.3], [0.1, 0.8, 0.4, 0.2]])
"""Each task likes other coefficients best."""
Scorer = Callable[[Proposal], Scores | None]


def space(floors: tuple[Floor, ...] = (), levels: tuple[float, ...] = ()) -> SearchSpace:
    """Two experts, two groups, two tasks, one to keep."""
    objectives = tuple(Objective(name, number, 6) for number, name in enumerate(("sql", "bash")))
    return SearchSpace(objectives, experts=2, groups=2, floors=floors, levels=levels)


def scores_of(vector: Matrix) -> tuple[float, ...]:
    """Smooth scores in [0, 1]."""
    return tuple(float(np.exp(-np.sum((vector.ravel() - target) ** 2))) for target in TARGETS)


def plain(proposal: Proposal) -> Scores:
    assert isinstance(proposal.candidate, Genome)
    return (*scores_of(proposal.candidate.coefficients), 0.5)


def play(strategy: Strategy, generations: int, scorer: Scorer = plain, in_flight: int = 1) -> list[Proposal]:
    """Ask and tell as a run does."""
    schedule = Schedule(strategy, in_flight, 2 + generations)
    waiting, proposals = schedule.ready(), []
    while not schedule.done:
        proposal = waiting.pop(0)
        proposals.append(proposal)
        waiting += schedule.tell(Result(proposal.number, scorer(proposal)))
    return proposals


def coefficients(proposals: list[Proposal]) -> list[list[float]]:
    return [proposal.candidate.coefficients.ravel().tolist() for proposal in proposals]  # type: ignore[union-attr]


def cma_es(population: int | None = None, seed: int = 3) -> CmaEs:
    return CmaEs(np.full(4, 0.5), 0.2, population, np.array([3.0, 1.0]), seed)


def cma_me(bred: float, seed: int = 3, levels: tuple[float, ...] = (), **operators: Any) -> Mixed:
    of = space(levels=levels)
    populations = Populations(of, CmaMe(of, np.full(4, 0.5), 0.2, 6, seed))
    return Mixed(populations, CycleQD(of, Operators(**operators), seed), bred)


def bayesian(bred: float, seed: int = 3) -> Mixed:
    of = space()
    return Mixed(Bayesian(of, 1.0, seed), CycleQD(of, Operators(), seed), bred)


def strategies() -> dict[str, Callable[[], Strategy]]:
    return {
        "random": lambda: RandomSearch(space(), 3, -0.5, 1.5),
        "cma-es": lambda: Populations(space(), cma_es()),
        "nsga2": lambda: Populations(space(), Nsga2(4, 2, 8, -0.5, 1.5, 3)),
        "cma-me": lambda: cma_me(0.0),
        "cma-me and bred": lambda: cma_me(0.4, adaptive=True, scaling=(1.0, 1.6)),
        "bayesian": lambda: bayesian(0.0),
        "bayesian and bred": lambda: bayesian(0.4),
        "map-elites": lambda: MapElites(space(), Operators(), 3),
    }


def test_cma_es_searches_as_cma_itself_does() -> None:
    """A plain ask-and-tell loop over `cma`, on the weighted mean: rounding to six decimals is all that differs."""
    rng = generator(3, "cma-es")
    options = {"verbose": -9, "seed": np.nan, "randn": lambda *shape: rng.standard_normal(shape), "popsize": 6}
    wanted, search = [], CMAEvolutionStrategy(np.full(4, 0.5), 0.2, options)
    for _ in range(12):
        population = search.ask()
        wanted += [child.tolist() for child in population]
        search.tell(population, [-np.dot([0.75, 0.25], scores_of(child.round(6))) for child in population])
    found = play(Populations(space(), cma_es(6)), 72)
    np.testing.assert_allclose(coefficients(found)[2:], wanted, atol=1e-5)


def test_cma_es_finds_the_best_and_begins_anew_with_more_children() -> None:
    search = Populations(space(), CmaEs(np.zeros(4), 0.3, None, np.array([1.0, 0.0]), 0))
    best = max(scores_of(np.array(each))[0] for each in coefficients(play(search, 1500)))
    assert best > 0.9999
    assert len(search._population) == 16  # it had converged: 8 children before


def test_cma_me_searches_as_emitters_of_ribs_do_in_turns() -> None:
    """Compared as far as no emitter begins anew: it does so at an elite, and draws this one by itself."""
    compared = 0
    for seed in range(8):
        found = play(cma_me(0.0, seed), 150)
        wanted = emitters_by_hand(seed, found[:2])[:150]
        np.testing.assert_allclose(coefficients(found)[2 : len(wanted) + 2], wanted, atol=1e-5)
        compared += len(wanted) // 6
    assert compared > 40


def emitters_by_hand(seed: int, experts: list[Proposal]) -> list[list[float]]:
    """A plain loop over `ribs` until an emitter begins anew: archives with the coefficients in them, an emitter each,
    and one for the mean that ranks by it alone."""
    bounds = [(0.85 * min(column), 1.15 * max(column)) for column in zip(*map(plain, experts), strict=True)][:2]
    archives = [GridArchive(solution_dim=4, dims=[6], ranges=[bounds[1 - task]]) for task in (0, 1)]
    overall = GridArchive(solution_dim=4, dims=[1], ranges=[(0.0, 1.0)])
    kinds = [{"selection_rule": "filter"}] * 2 + [{"selection_rule": "mu", "restart_rule": "basic", "ranker": "obj"}]
    emitters = [
        EvolutionStrategyEmitter(
            archive, x0=np.full(4, 0.5), sigma0=0.2, batch_size=6, seed=new_seed(seed, "cma-me", turn), **kind
        )
        for turn, (archive, kind) in enumerate(zip((*archives, overall), kinds, strict=True))
    ]
    for proposal in experts:
        add_all(archives, np.array([proposal.candidate.coefficients.ravel()]), bounds)  # type: ignore[union-attr]
    wanted: list[list[float]] = []
    while not any(emitter.restarts for emitter in emitters):
        turn = len(wanted) // 6 % 3
        population = emitters[turn].ask()
        wanted += population.tolist()
        infos = add_all(archives, population.round(6), bounds)
        scores = np.array([scores_of(child) for child in population.round(6)])
        measures = np.zeros((6, 1))
        info = infos[turn] if turn < 2 else {"status": np.zeros(6), "value": np.zeros(6)}
        emitters[turn].tell(population, scores[:, turn] if turn < 2 else scores.mean(axis=1), measures, info)
    return wanted


def add_all(archives: list[GridArchive], population: Matrix, bounds: list[tuple[float, float]]) -> list[Any]:
    """Offer children one after another; what each archive says of them, as arrays."""
    infos = []
    for task, archive in enumerate(archives):
        low, high = bounds[1 - task]
        told = []
        for child in population:
            scores = scores_of(child)
            told.append(archive.add_single(child, scores[task], [min(max(scores[1 - task], low), high)]))
        infos.append({key: np.array([each[key] for each in told]) for key in ("status", "value")})
    return infos


def test_cma_me_begins_anew_at_elites_and_goes_on_improving() -> None:
    search = cma_me(0.0)
    scores = np.array([plain(proposal)[:2] for proposal in play(search, 900)])
    optimiser = search._emitter._optimiser
    assert all(emitter.restarts for emitter in optimiser._emitters[:2])  # type: ignore[attr-defined]
    assert scores.max(axis=0).tolist() == pytest.approx([1.0, 1.0], abs=0.02)
    best_mean = max(np.mean(scores_of(weight * TARGETS[0] + (1 - weight) * TARGETS[1])) for weight in np.linspace(0, 1))
    assert scores.mean(axis=1).max() == pytest.approx(best_mean, abs=0.005)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_both_ways_of_making_children_fill_the_same_archives(share: float) -> None:
    search = cma_me(share, levels=(0.4, 0.6))
    proposals = play(search, 400, in_flight=4)
    assert [each.step for each in proposals[2:4]] == [{"level": 0.4}, {"level": 0.6}]
    ways = ["parents" in each.step for each in proposals[4:]]
    assert np.mean(ways) == pytest.approx(share, abs=0.07)
    held = {elite.number for archive in search.space.archives for elite in archive.elites()}
    made = {"parents" in proposals[number].step for number in held - {0, 1, 2, 3}}
    assert made == {True} if share == 1 else made == {False} if share == 0 else made == {True, False}
    if share == 0.3:
        crossed = {"parents" in proposals[p].step for each in proposals[4:] for p in each.step.get("parents", ())}
        assert crossed == {True, False}


def test_nsga2_searches_as_pymoo_itself_does() -> None:
    class Tasks(Problem):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(n_var=4, n_obj=2, xl=-0.5, xu=1.5)
            self.seen: list[list[float]] = []

        def _evaluate(self, x: Matrix, out: dict[str, Matrix], *args: object, **more: object) -> None:
            self.seen += x.tolist()
            out["F"] = -np.array([scores_of(each.round(6)) for each in x])

    tasks = Tasks()
    minimize(tasks, NSGA2(pop_size=8), ("n_gen", 9), seed=new_seed(3, "nsga2") % 2**32)
    found = coefficients(play(Populations(space(), Nsga2(4, 2, 8, -0.5, 1.5, 3)), 72))[2:]
    np.testing.assert_allclose(found, tasks.seen, atol=1e-6)


def test_random_search_draws_evenly_from_its_range() -> None:
    drawn = np.array(coefficients(play(RandomSearch(space(), 1, -1.0, 3.0), 2000))[2:])
    assert drawn.min() >= -1.0
    assert drawn.max() <= 3.0
    np.testing.assert_allclose(drawn.mean(axis=0), 1.0, atol=0.15)
    np.testing.assert_allclose(drawn.std(axis=0), 4 / np.sqrt(12), atol=0.1)


@pytest.mark.parametrize("kind", strategies())
@pytest.mark.parametrize("in_flight", [1, 5])
def test_a_strategy_told_again_proposes_again(kind: str, in_flight: int) -> None:
    make = strategies()[kind]
    first, again = (play(make(), 70, in_flight=in_flight) for _ in range(2))
    assert [(each.number, each.step) for each in first] == [(each.number, each.step) for each in again]
    assert coefficients(first) == coefficients(again)
    assert len({str(each.candidate.to_json()) for each in first}) > 60


@pytest.mark.parametrize("kind", strategies())
def test_failed_children_and_those_below_a_floor_are_lived_with(kind: str) -> None:
    make = strategies()[kind]
    search = make()
    search.space.floors = (Floor(2, 0.4),)  # type: ignore[attr-defined]

    def scorer(proposal: Proposal) -> Scores | None:
        if proposal.number >= 2 and proposal.number % 5 == 0:
            return None
        return (*plain(proposal)[:2], 0.3 if proposal.number >= 2 and proposal.number % 3 == 0 else 0.9)

    play(search, 100, scorer)
    elites = {each.number for archive in search.space.archives for each in archive.elites()}  # type: ignore[attr-defined]
    assert len(elites) > 5
    assert not any(number >= 2 and (number % 5 == 0 or number % 3 == 0) for number in elites)


def test_populations_are_asked_only_when_all_of_one_was_told() -> None:
    search = Populations(space(), cma_es(6))
    schedule = Schedule(search, in_flight=100, total=100)
    waiting = schedule.ready()
    assert [each.number for each in waiting] == [0, 1]
    for expected in ([], [2, 3, 4, 5, 6, 7], [], [], [], [], [], [8, 9, 10, 11, 12, 13]):
        proposal = waiting.pop(0)
        opened = schedule.tell(Result(proposal.number, plain(proposal)))
        assert [each.number for each in opened] == expected
        waiting += opened


def test_listed_candidates_come_in_their_order_and_end() -> None:
    listed = [(coefficient_genome(np.full((2, 2), level)), {"level": level}) for level in (0.1, 0.2, 0.3)]
    search = Listed(space(), listed)
    assert search.generations == 3
    assert [each.step for each in play(search, 3)[2:]] == [{"level": level} for level in (0.1, 0.2, 0.3)]


def test_map_elites_takes_its_parents_from_one_archive_of_the_mean() -> None:
    """Followed by hand: a cell per pair of both tasks' bins, the better mean stays."""
    search = MapElites(space(), Operators(sampling="random"), 1)
    cells: dict[tuple[int, ...], tuple[float, int]] = {}
    early: list[tuple[int, Scores]] = []
    parents: set[int] = set()
    for number in range(150):
        proposal = search.ask(number)
        assert proposal is not None
        chosen = set(proposal.step.get("parents", ()))
        assert chosen <= {number for _, number in cells.values()}
        parents |= chosen
        search.tell(Result(number, plain(proposal)))
        early.append((number, plain(proposal)[:2]))
        if search.space.bounds is not None:
            for told, scores in early:
                edges = [np.linspace(low, high, 7)[1:-1] for low, high in search.space.bounds]
                cell = tuple(int(np.digitize(own, edge)) for own, edge in zip(scores, edges, strict=True))
                if sum(scores) / 2 > cells.get(cell, (-1.0, 0))[0]:
                    cells[cell] = (sum(scores) / 2, told)
            early = []
    assert len(cells) > 8
    assert len(parents) > 8


def test_published_weights_are_those_of_bins_scaled_to_the_published_range() -> None:
    bins = np.array([[0, 4], [2, 2], [4, 0], [4, 4]])
    wanted = np.array([0.5 * 1.3, 0.9 * 0.9, 1.3 * 0.5, 1.3 * 1.3])
    np.testing.assert_allclose(published_weights(bins, 0.5, 0.8), wanted / wanted.sum())
