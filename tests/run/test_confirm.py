"""Elites are scored again on the confirmation split, and chosen by both scores. No models."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from contextlib import closing
from pathlib import Path

import pytest

from cycleqd_merge.errors import InfrastructureError, Interrupted
from cycleqd_merge.evaluation.pools.pool import Finished
from cycleqd_merge.evaluation.worker import Evaluation
from cycleqd_merge.hub.archive import portable_events
from cycleqd_merge.hub.portable import PortableRecipe
from cycleqd_merge.journal.log import Journal, of_kind, read_events
from cycleqd_merge.run.confirm import confirm, to_confirm
from cycleqd_merge.run.elites import expand
from cycleqd_merge.run.loop import evaluate_generations, resume_journal
from cycleqd_merge.run.state import Run, open_run
from cycleqd_merge.strategies.protocol import Proposal
from cycleqd_merge.tasks.protocol import Split
from tests.run.synthetic import EXPERTS, SyntheticPool, Watcher, session_of, start_of, synthetic_recipe

SEARCHED, SET_ASIDE = 30, 10
RECIPE = synthetic_recipe(30, confirm={"top": 4})


class Strict(SyntheticPool):
    """Scores evaluation n with n mod 7 tenths on the confirmation split; the infrastructure fails after `ends` of them.

    fails: every evaluation on these rows fails instead.
    """

    def __init__(self, ends: int = 1000, fails: bool = False) -> None:
        super().__init__()
        self.ends, self.fails = ends, fails
        self.rows: dict[int, Split] = {}

    def submit(
        self,
        proposal: Proposal,
        rows: Split = "search",
        known: Mapping[str, float] | None = None,
        record: Collection[str] = (),
    ) -> None:
        super().submit(proposal, rows, known, record)
        self.rows[proposal.number] = rows

    def next(self) -> Finished:
        finished = super().next()
        if self.rows[finished.number] == "search":
            return finished
        self.ends -= 1
        if self.ends < 0:
            raise InfrastructureError("the disk is gone")
        if self.fails:
            return Finished(finished.number, None, "RuntimeError: out of memory on /home/me")
        return Finished(finished.number, Evaluation({}, strict_scores(finished.number), 0.0, 0.0))


def strict_scores(number: int) -> tuple[float, ...]:
    """An evaluation's score on the confirmation split."""
    return (number % 7 / 10,) * len(EXPERTS)


def run(folder: Path, pool: SyntheticPool, set_aside: int = SET_ASIDE) -> Run:
    """A whole run and its confirmation."""
    rows = {"search": SEARCHED, "confirm": set_aside, "heldout": 40}
    start = {**start_of(RECIPE, 2), "tasks": {name: {"rows": rows} for name in EXPERTS}}
    with closing(Journal(folder)) as journal:
        state = resume_journal(journal, start, session_of(RECIPE))
        evaluate_generations(journal, state, pool, Watcher())
        confirm(journal, state, pool)
    return state


def expected(state: Run) -> set[int]:
    """The four highest means and the best of every archive, from the journaled scores."""
    scores = {number: event["scores"] for number, event in enumerate(state.results)}
    elites = {elite.number for archive in state.archives for elite in archive.elites()}
    by_mean = sorted(elites, key=lambda number: (-sum(scores[number]), number))[:4]
    return {*by_mean} | {best.number for archive in state.archives if (best := archive.best())}


def test_the_top_elites_and_every_best_are_scored_again_on_rows_set_aside(tmp_path: Path) -> None:
    pool = Strict()
    state = run(tmp_path, pool)
    assert {number for number, rows in pool.rows.items() if rows == "confirm"} == expected(state)
    assert state.confirmed == {number: strict_scores(number) for number in expected(state)}
    assert open_run(tmp_path).confirmed == state.confirmed
    assert to_confirm(state) == []


def test_an_elite_is_chosen_by_all_rows_it_was_scored_on(tmp_path: Path) -> None:
    state = run(tmp_path, Strict())
    share = SEARCHED / (SEARCHED + SET_ASIDE)

    def judged(number: int) -> float:
        return sum(state.scores(number)) * share + sum(strict_scores(number)) * (1 - share)

    assert state.best_mean() == max(state.confirmed, key=lambda number: (round(judged(number), 9), -number))
    for task, archive in enumerate(state.archives):
        elites = {elite.number for elite in archive.elites()} & set(state.confirmed)
        by_quality = {n: state.scores(n)[task] * share + strict_scores(n)[task] * (1 - share) for n in elites}
        assert state.best_of(task) == max(elites, key=lambda number: (round(by_quality[number], 9), -number))


def test_the_front_compares_elites_on_the_rows_that_all_were_scored_on(tmp_path: Path) -> None:
    state = run(tmp_path, Strict())
    scores = {number: state.scores(number) for number in state.elites()}
    assert set(state.confirmed) < set(scores)

    def beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
        return one != other and all(a >= b for a, b in zip(one, other, strict=True))

    front = [number for number, own in scores.items() if not any(beats(each, own) for each in scores.values())]
    assert expand(state, ["pareto"]) == [f"#{number}" for number in front]


def test_an_interrupted_confirmation_resumes_where_it_stopped(tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError):
        run(tmp_path / "cut", Strict(ends=2))
    assert len(open_run(tmp_path / "cut").confirmed) == 2
    pool = Strict()
    state = run(tmp_path / "cut", pool)
    assert len(pool.submitted) == len(expected(state)) - 2
    assert state.confirmed == run(tmp_path / "whole", Strict()).confirmed
    assert len(of_kind(read_events(tmp_path / "cut"), "confirm")) == len(state.confirmed)


def test_the_time_limit_ends_confirming_too(tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError):
        run(tmp_path, Strict(ends=2))
    pool = Strict()
    with closing(Journal(tmp_path)) as journal, pytest.raises(Interrupted, match="time limit"):
        confirm(journal, open_run(tmp_path), pool, deadline=time.monotonic() - 1)
    assert len(open_run(tmp_path).confirmed) == 2


def test_an_elite_that_cannot_be_confirmed_is_not_tried_again(tmp_path: Path) -> None:
    first = run(tmp_path, Strict(fails=True))
    assert (first.confirmed, first.unconfirmed) == ({}, expected(first))
    events = of_kind(read_events(tmp_path), "confirm")
    assert {event["number"]: (event["scores"], event["error"]) for event in events} == dict.fromkeys(
        first.unconfirmed, (None, "RuntimeError: out of memory on /home/me")
    )
    pool = Strict()
    again = run(tmp_path, pool)
    assert (pool.submitted, again.confirmed, again.unconfirmed) == ([], {}, first.unconfirmed)
    published = of_kind(portable_events(read_events(tmp_path), PortableRecipe(RECIPE, {}, None)), "confirm")
    assert {event["error"] for event in published} == {"RuntimeError"}


def test_nothing_is_confirmed_where_no_rows_are_set_aside(tmp_path: Path) -> None:
    state = run(tmp_path, Strict(), set_aside=0)
    assert state.confirmed == {}
    best = max(state.elites(), key=lambda number: (sum(state.scores(number)), -number))
    assert state.best_mean() == best
