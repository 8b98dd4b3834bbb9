"""CMA-ME, compared with a plain loop over emitters of `ribs`, and its mix with CycleQD's operators."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ribs.archives import GridArchive
from ribs.emitters import EvolutionStrategyEmitter

from cycleqd_merge.evolution.archive import AddResult, AddStatus
from cycleqd_merge.evolution.draws import new_seed
from cycleqd_merge.evolution.genome import Matrix
from cycleqd_merge.strategies.cma_me import LEAST, CmaMe, _rank
from cycleqd_merge.strategies.cycleqd import CycleQD, Operators
from cycleqd_merge.strategies.mixed import Mixed
from cycleqd_merge.strategies.optimisers import PopulationStrategy
from cycleqd_merge.strategies.protocol import Proposal
from cycleqd_merge.strategies.state import Insertion, SearchState
from tests.strategies.toy import TARGETS, coefficients, fresh, play, score, scores_of


def cma_me(share: float, seed: int = 3, state: SearchState | None = None, **operators: Any) -> Mixed:
    """`share` of the children are created by CycleQD's operators."""
    state = state or fresh()
    populations = PopulationStrategy(state, CmaMe(state, np.full(4, 0.5), 0.2, 6, seed))
    return Mixed(populations, CycleQD(state, Operators(**operators), seed), share)


def test_children_that_racing_rejected_improve_no_archive_and_are_ranked_by_their_estimated_mean() -> None:
    rejected, failed = Insertion(None, estimated=(0.2, 0.6)), Insertion(None)
    scored = Insertion((0.2, 0.6), (AddResult(AddStatus.NOT_ADDED, -0.1), AddResult(AddStatus.NEW, 0.6)))
    assert [_rank(rejected, task, 2) for task in range(3)] == [(0, LEAST), (0, LEAST), (0, pytest.approx(0.4))]
    assert [_rank(failed, task, 2) for task in range(3)] == [(0, LEAST)] * 3
    assert [_rank(scored, task, 2) for task in range(3)] == [(0, -0.1), (2, 0.6), (0, pytest.approx(0.4))]


def test_cma_me_proposes_what_emitters_of_ribs_do_in_turns() -> None:
    """Compared until the first emitter restarts: it restarts from an elite, which ribs' archive draws differently."""
    compared = 0
    for seed in range(8):
        found = play(cma_me(0.0, seed), 150)
        wanted = emitters_by_hand(seed, found[:2])[:150]
        np.testing.assert_allclose(coefficients(found)[2 : len(wanted) + 2], wanted, atol=1e-5)
        compared += len(wanted) // 6
    assert compared > 40


def emitters_by_hand(seed: int, experts: list[Proposal]) -> list[list[float]]:
    """A plain loop over `ribs` until an emitter restarts: archives that store the coefficients, an emitter for each,
    and one more that ranks by the mean alone."""
    bounds = [(0.85 * min(column), 1.15 * max(column)) for column in zip(*map(score, experts), strict=True)][:2]
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
    """Offer children one after another; returns each archive's answers, as arrays."""
    infos = []
    for task, archive in enumerate(archives):
        low, high = bounds[1 - task]
        answers = []
        for child in population:
            scores = scores_of(child)
            answers.append(archive.add_single(child, scores[task], [min(max(scores[1 - task], low), high)]))
        infos.append({key: np.array([each[key] for each in answers]) for key in ("status", "value")})
    return infos


def test_cma_me_restarts_from_elites_and_keeps_improving() -> None:
    search = cma_me(0.0)
    scores = np.array([score(proposal)[:2] for proposal in play(search, 900)])
    optimiser = search._emitter._optimiser  # type: ignore[attr-defined]
    assert all(emitter.restarts for emitter in optimiser._emitters[:2])
    assert scores.max(axis=0).tolist() == pytest.approx([1.0, 1.0], abs=0.02)
    best_mean = max(np.mean(scores_of(weight * TARGETS[0] + (1 - weight) * TARGETS[1])) for weight in np.linspace(0, 1))
    assert scores.mean(axis=1).max() == pytest.approx(best_mean, abs=0.005)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_both_sources_of_children_fill_the_same_archives(share: float) -> None:
    search = cma_me(share, state=fresh(levels=(0.4, 0.6)))
    proposals = play(search, 400, in_flight=4)
    assert [each.step for each in proposals[2:4]] == [{"level": 0.4}, {"level": 0.6}]
    crossed = ["parents" in each.step for each in proposals[4:]]
    assert np.mean(crossed) == pytest.approx(share, abs=0.07)
    held = {elite.number for archive in search.state.archives for elite in archive.elites()}
    sources = {"parents" in proposals[number].step for number in held - {0, 1, 2, 3}}
    assert sources == {True} if share == 1 else sources == {False} if share == 0 else sources == {True, False}
    if share == 0.3:
        parents = {"parents" in proposals[p].step for each in proposals[4:] for p in each.step.get("parents", ())}
        assert parents == {True, False}
