"""A run that another machine made is restored as it was made, though this one would have proposed other children."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cycleqd_merge.strategies.bayesian import Bayesian
from cycleqd_merge.strategies.cma_es import CmaEs
from cycleqd_merge.strategies.cma_me import CmaMe
from cycleqd_merge.strategies.cycleqd import CycleQD, Operators
from cycleqd_merge.strategies.mixed import Mixed
from cycleqd_merge.strategies.nsga2 import Nsga2
from cycleqd_merge.strategies.populations import Populations
from cycleqd_merge.strategies.protocol import Proposal, Recalling, Result, Strategy
from cycleqd_merge.strategies.schedule import Schedule
from tests.evolution.references import snapshot
from tests.strategies.test_strategies import coefficients, plain, play, space

MADE, TOTAL = 30, 54


def strategy(kind: str, off: float = 0.0) -> Strategy:
    """A strategy; `off` makes it another machine's, which proposes slightly other coefficients."""
    of, start = space(), np.full(4, 0.5)
    if kind == "cma-es":
        return Populations(of, CmaEs(start, 0.2 + off, 6, np.ones(2), 3))
    if kind == "nsga2":
        return Populations(of, Nsga2(4, 2, 6, 0.0, 1.0 + off, 3))
    if kind == "cma-me":
        return Mixed(Populations(of, CmaMe(of, start, 0.2 + off, 6, 3)), CycleQD(of, Operators(), 3), 0.3)
    return Mixed(Bayesian(of, 1.0 + off, 3), CycleQD(of, Operators(), 3), 0.2)


def restore(search: Strategy, steps: list[dict[str, Any]], in_flight: int) -> list[Proposal]:
    """Play on from what was recorded, to `TOTAL` children."""
    schedule = Schedule(search, in_flight, 2 + TOTAL, steps)
    waiting, proposals = schedule.ready(), []
    while not schedule.done:
        proposals.append(waiting.pop(0))
        waiting += schedule.tell(Result(proposals[-1].number, plain(proposals[-1])))
    return proposals


@pytest.mark.parametrize("kind", ["cma-es", "cma-me", "nsga2", "bayesian"])
@pytest.mark.parametrize("in_flight", [1, 4])
def test_what_was_made_elsewhere_is_restored_and_gone_on_with(kind: str, in_flight: int) -> None:
    there = play(strategy(kind, 1e-3), TOTAL, in_flight=in_flight)
    assert coefficients(there)[: MADE + 2] != coefficients(play(strategy(kind), MADE, in_flight=in_flight))
    made = there[: MADE + 2]
    restored = restore(strategy(kind), [each.step for each in made], in_flight)
    assert [each.candidate for each in restored[: MADE + 2]] == [each.candidate for each in made]
    assert [each.step for each in restored[: MADE + 2]] == [each.step for each in made]
    later, wanted = (np.mean([plain(each)[:2] for each in run[MADE + 2 :]]) for run in (restored, there))
    assert later == pytest.approx(wanted, abs=0.02)  # what it had learned there is known here


@pytest.mark.parametrize("kind", ["cma-es", "cma-me", "nsga2", "bayesian"])
@pytest.mark.parametrize("in_flight", [1, 4])
def test_what_was_made_here_goes_on_as_if_it_had_never_ended(kind: str, in_flight: int) -> None:
    search = strategy(kind)
    whole = play(search, TOTAL, in_flight=in_flight)
    for told in (1, 26):
        again = strategy(kind)
        restored = restore(again, [each.step for each in whole[:told]], in_flight)
        assert [(each.candidate, each.step) for each in restored] == [(each.candidate, each.step) for each in whole]
        assert snapshot(search.space.archives) == snapshot(again.space.archives)  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["cma-es", "cma-me", "nsga2", "bayesian"])
def test_a_step_that_does_not_fit_the_space_changes_nothing(kind: str) -> None:
    wrong: list[dict[str, Any]] = [{}, {"coefficients": [1.0]}, {"coefficients": "a"}, {"coefficients": [[1, 2], [3]]}]
    whole = play(strategy(kind), TOTAL)
    assert coefficients(restore(strategy(kind), wrong * 4, 1)) == coefficients(whole)


def test_strategies_of_plain_arithmetic_need_no_recall() -> None:
    assert isinstance(strategy("bayesian"), Recalling)
    assert not isinstance(CycleQD(space(), Operators(), 3), Recalling)
