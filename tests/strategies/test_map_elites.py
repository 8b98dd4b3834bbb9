"""Plain MAP-Elites, compared with a dictionary of cells."""

from __future__ import annotations

import numpy as np

from cycleqd_merge.evolution.archive import Scores
from cycleqd_merge.strategies.cycleqd import Operators
from cycleqd_merge.strategies.map_elites import MapElites
from cycleqd_merge.strategies.protocol import Result
from tests.strategies.toy import fresh, score


def test_map_elites_takes_its_parents_from_one_archive_of_the_mean() -> None:
    """By hand: a cell per pair of both tasks' bins keeps the child with the best mean."""
    search = MapElites(fresh(), Operators(sampling="random"), 1)
    cells: dict[tuple[int, ...], tuple[float, int]] = {}
    early: list[tuple[int, Scores]] = []
    parents: set[int] = set()
    for number in range(150):
        proposal = search.ask(number)
        assert proposal is not None
        chosen = set(proposal.step.get("parents", ()))
        assert chosen <= {number for _, number in cells.values()}
        parents |= chosen
        search.tell(Result(number, score(proposal)))
        early.append((number, score(proposal)[:2]))
        if search.state.bounds is not None:
            for child, scores in early:
                edges = [np.linspace(low, high, 7)[1:-1] for low, high in search.state.bounds]
                cell = tuple(int(np.digitize(own, edge)) for own, edge in zip(scores, edges, strict=True))
                if sum(scores) / 2 > cells.get(cell, (-1.0, 0))[0]:
                    cells[cell] = (sum(scores) / 2, child)
            early = []
    assert len(cells) > 8
    assert len(parents) > 8
