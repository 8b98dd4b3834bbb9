"""A run made on one machine is restored on another as it was, even where the other would propose different children."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cycleqd_merge.strategies.bayesian import Bayesian
from cycleqd_merge.strategies.cma_me import CmaMe
from cycleqd_merge.strategies.cycleqd import CycleQD, Operators
from cycleqd_merge.strategies.mixed import Mixed
from cycleqd_merge.strategies.optimisers import CmaEs, Nsga2, PopulationStrategy
from cycleqd_merge.strategies.protocol import Proposal, Recalling, Result, Strategy
from cycleqd_merge.strategies.schedule import Schedule
from cycleqd_merge.strategies.state import SearchState
from tests.evolution.references import snapshot
from tests.strategies.toy import coefficients, fresh, play, score

MADE, TOTAL = 30, 54


def strategy(kind: str, off: float = 0.0, state: SearchState | None = None) -> Strategy:
    """A strategy; with `off` it acts as on another machine and proposes slightly different coefficients."""
    state, start = state or fresh(), np.full(4, 0.5)
    if kind == "cma-es":
        return PopulationStrategy(state, CmaEs(start, 0.2 + off, 6, np.ones(2), 3))
    if kind == "nsga2":
        return PopulationStrategy(state, Nsga2(4, 2, 6, 0.0, 1.0 + off, 3))
    cycleqd = CycleQD(state, Operators(), 3)
    if kind == "cma-me":
        return Mixed(PopulationStrategy(state, CmaMe(state, start, 0.2 + off, 6, 3)), cycleqd, 0.3)
    return Mixed(Bayesian(state, 1.0 + off, 3), cycleqd, 0.2)


def restore(search: Strategy, steps: list[dict[str, Any]], in_flight: int) -> list[Proposal]:
    """Restore the recorded steps, then play on to `TOTAL` children."""
    schedule = Schedule(search, in_flight, 2 + TOTAL, steps)
    waiting, proposals = schedule.ready(), []
    while not schedule.done:
        proposals.append(waiting.pop(0))
        waiting += schedule.tell(Result(proposals[-1].number, score(proposals[-1])))
    return proposals


@pytest.mark.parametrize("kind", ["cma-es", "cma-me", "nsga2", "bayesian"])
@pytest.mark.parametrize("in_flight", [1, 4])
def test_a_run_from_another_machine_is_restored_and_continues(kind: str, in_flight: int) -> None:
    there = play(strategy(kind, 1e-3), TOTAL, in_flight=in_flight)
    assert coefficients(there)[: MADE + 2] != coefficients(play(strategy(kind), MADE, in_flight=in_flight))
    made = there[: MADE + 2]
    restored = restore(strategy(kind), [each.step for each in made], in_flight)
    assert [each.candidate for each in restored[: MADE + 2]] == [each.candidate for each in made]
    assert [each.step for each in restored[: MADE + 2]] == [each.step for each in made]
    later, wanted = (np.mean([score(each)[:2] for each in run[MADE + 2 :]]) for run in (restored, there))
    assert later == pytest.approx(wanted, abs=0.02)  # the strategy has learned what it learned there


@pytest.mark.parametrize("kind", ["cma-es", "cma-me", "nsga2", "bayesian"])
@pytest.mark.parametrize("in_flight", [1, 4])
def test_a_run_from_this_machine_continues_as_if_never_interrupted(kind: str, in_flight: int) -> None:
    state = fresh()
    whole = play(strategy(kind, state=state), TOTAL, in_flight=in_flight)
    for received in (1, 26):
        again = fresh()
        restored = restore(strategy(kind, state=again), [each.step for each in whole[:received]], in_flight)
        assert [(each.candidate, each.step) for each in restored] == [(each.candidate, each.step) for each in whole]
        assert snapshot(state.archives) == snapshot(again.archives)


@pytest.mark.parametrize("kind", ["cma-es", "cma-me", "nsga2", "bayesian"])
def test_a_step_that_does_not_fit_the_space_changes_nothing(kind: str) -> None:
    wrong: list[dict[str, Any]] = [{}, {"coefficients": [1.0]}, {"coefficients": "a"}, {"coefficients": [[1, 2], [3]]}]
    whole = play(strategy(kind), TOTAL)
    assert coefficients(restore(strategy(kind), wrong * 4, 1)) == coefficients(whole)


def test_strategies_of_plain_arithmetic_do_not_need_recall() -> None:
    assert isinstance(strategy("bayesian"), Recalling)
    assert not isinstance(CycleQD(fresh(), Operators(), 3), Recalling)
