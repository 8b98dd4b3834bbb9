"""The loop: evaluations, records, reports, and how a run ends early and resumes. No models."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cycleqd_merge.errors import InfrastructureError, Interrupted, RunFailed, UserError
from cycleqd_merge.journal.log import JOURNAL_FILE, Event, Journal, of_kind, read_events
from cycleqd_merge.run.identity import require_same
from cycleqd_merge.run.loop import MAX_FAILURES_IN_A_ROW, resume_journal
from cycleqd_merge.run.state import open_run
from tests.evolution.references import snapshot, synthetic_scores
from tests.run.synthetic import (
    SyntheticPool,
    Watcher,
    history,
    run,
    session_of,
    start_of,
    synthetic_recipe,
)


def at(number: int, act: Callable[[], object]) -> Watcher:
    """An observer that acts after the evaluation with a given number."""
    return Watcher(lambda told: act() if told == number else None)


def test_a_run_records_and_reports_every_evaluation_in_order(tmp_path: Path) -> None:
    pool, watcher = SyntheticPool(order=1), Watcher()
    state = run(tmp_path, synthetic_recipe(20), in_flight=4, pool=pool, watcher=watcher)
    events = read_events(tmp_path)
    assert [event["event"] for event in events] == ["start", "session", *["result"] * 3, "bounds", *["result"] * 20]
    assert [event["number"] for event in of_kind(events, "result")] == list(range(23))
    assert of_kind(events, "result") == watcher.told_events == state.results
    assert watcher.began_at == 0
    assert pool.submitted == list(range(23))
    assert pool.ended != pool.submitted  # they did end in another order
    assert events[5]["bounds"] == [list(pair) for pair in state.search.bounds or ()]


def test_recorded_scores_are_those_of_the_genome_of_that_number(tmp_path: Path) -> None:
    state = run(tmp_path, in_flight=4, pool=SyntheticPool(order=2))
    for number, event in enumerate(state.results):
        assert tuple(event["scores"]) == synthetic_scores(state.search.genome(number), 3)
        assert state.scores(number) == tuple(event["scores"])


@pytest.mark.parametrize("in_flight", [1, 4])
def test_order_of_ending_does_not_change_the_outcome(tmp_path: Path, in_flight: int) -> None:
    for order in range(3):
        run(tmp_path / str(order), synthetic_recipe(30), in_flight, SyntheticPool(order, seconds=0.0005))
    assert history(tmp_path / "0") == history(tmp_path / "1") == history(tmp_path / "2")


@pytest.mark.parametrize("in_flight", [1, 4])
def test_extension_equals_one_long_run(tmp_path: Path, in_flight: int) -> None:
    for generations in (20, 40):
        extended = run(tmp_path / "extended", synthetic_recipe(generations), in_flight, SyntheticPool(generations))
    whole = run(tmp_path / "whole", synthetic_recipe(40), in_flight)
    assert history(tmp_path / "extended") == history(tmp_path / "whole")
    assert snapshot(extended.archives) == snapshot(whole.archives)


def test_a_finished_run_evaluates_nothing_more(tmp_path: Path) -> None:
    run(tmp_path)
    before = history(tmp_path)
    for generations in (20, 10, 0):
        pool = SyntheticPool()
        run(tmp_path, synthetic_recipe(generations), pool=pool)
        assert pool.submitted == []
    assert history(tmp_path) == before


@pytest.mark.parametrize("number", [0, 2, 3, 11])
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_a_run_which_resumes(tmp_path: Path, sign: signal.Signals, number: int) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="interrupted"):
        run(tmp_path / "stopped", in_flight=4, watcher=at(number, lambda: os.kill(os.getpid(), sign)))
    assert signal.getsignal(signal.SIGTERM) is handler
    assert open_run(tmp_path / "stopped").schedule.received == number + 1
    run(tmp_path / "stopped", in_flight=4)
    run(tmp_path / "whole", in_flight=4)
    assert history(tmp_path / "stopped") == history(tmp_path / "whole")


def test_a_signal_while_waiting_ends_a_run(tmp_path: Path) -> None:
    def fail(number: int) -> None:
        if number == 7:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)

    since = time.monotonic()
    with pytest.raises(Interrupted):
        run(tmp_path, pool=SyntheticPool(failure=fail))
    assert time.monotonic() - since < 30
    assert open_run(tmp_path).schedule.received == 7


def test_the_time_limit_ends_a_run_which_resumes(tmp_path: Path) -> None:
    deadline = time.monotonic() + 0.15
    with pytest.raises(Interrupted, match="time limit reached"):
        run(tmp_path / "stopped", synthetic_recipe(500), pool=SyntheticPool(seconds=0.01), deadline=deadline)
    assert time.monotonic() - deadline < 5
    assert open_run(tmp_path / "stopped").schedule.received < 500
    run(tmp_path / "stopped", synthetic_recipe(60))
    run(tmp_path / "whole", synthetic_recipe(60))
    assert history(tmp_path / "stopped") == history(tmp_path / "whole")


def test_a_failed_evaluation_is_recorded_with_its_error_and_the_run_continues(tmp_path: Path) -> None:
    errors = {number: f"ValueError: child {number}" for number in (6, 7, 12)}
    state = run(tmp_path, pool=SyntheticPool(failure=errors.get))
    failed = [event for event in state.results if event["scores"] is None]
    assert {event["number"]: event["error"] for event in failed} == errors
    assert all(event["step"]["parents"] for event in failed)
    assert state.generation == 20
    held = {number for archive in snapshot(state.archives) for _, number, _ in archive}
    assert not held & {6, 7, 12}


def test_too_many_failures_in_a_row_stop_a_run(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="5 evaluations in a row failed, the last with: no memory at 12"):
        run(tmp_path, pool=SyntheticPool(failure=lambda number: f"no memory at {number}" if number >= 8 else None))
    assert open_run(tmp_path).schedule.received == 8 + MAX_FAILURES_IN_A_ROW
    state = run(tmp_path)  # the cause is mended
    assert state.generation == 20
    assert sum(event["scores"] is None for event in state.results) == MAX_FAILURES_IN_A_ROW


def test_failures_among_successes_do_not_stop_a_run(tmp_path: Path) -> None:
    failure = {number: "no luck" for number in range(3, 60) if number % MAX_FAILURES_IN_A_ROW}
    state = run(tmp_path, synthetic_recipe(57), pool=SyntheticPool(failure=failure.get))
    assert sum(event["scores"] is None for event in state.results) == len(failure) > 40


@pytest.mark.parametrize("number", [1, 9])
def test_an_infrastructure_failure_pauses_a_run_and_is_never_a_score(tmp_path: Path, number: int) -> None:
    broken = InfrastructureError("the sandbox is gone")
    pool = SyntheticPool(failure=lambda asked: broken if asked == number else None)
    with pytest.raises(InfrastructureError, match="the sandbox is gone"):
        run(tmp_path / "paused", pool=pool)
    assert [event["number"] for event in open_run(tmp_path / "paused").results] == list(range(number))
    run(tmp_path / "paused")
    run(tmp_path / "whole")
    assert history(tmp_path / "paused") == history(tmp_path / "whole")


def test_a_task_on_which_no_expert_scores_stops_a_run_with_the_reason(tmp_path: Path) -> None:
    class Hopeless(SyntheticPool):
        def next(self) -> Any:
            finished = super().next()
            object.__setattr__(finished.evaluation, "scores", (0.5, 0.0, 0.3))
            return finished

    for _ in range(2):  # and again when it is taken up
        with pytest.raises(RunFailed, match=r"task bash: its experts' scores, 0 to 0, .*explicit `bounds`"):
            run(tmp_path, pool=Hopeless())
    assert len(of_kind(read_events(tmp_path), "result")) == 3


def test_a_run_whose_experts_all_fail_stops_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="no expert could be evaluated"):
        run(tmp_path, pool=SyntheticPool(failure=lambda _: "CUDA out of memory"))


def test_a_run_of_another_identity_is_refused_with_every_difference(tmp_path: Path) -> None:
    run(tmp_path)
    before = (tmp_path / JOURNAL_FILE).read_bytes()
    other = synthetic_recipe(evolution={"seed": 1, "mu": 0.9})
    start = {**start_of(other, 2), "base": "4567"}
    del start["experts"]["math"]
    with closing(Journal(tmp_path)) as journal:
        for check in (lambda: require_same(journal, start), lambda: resume_journal(journal, start, session_of(other))):
            with pytest.raises(UserError) as raised:
                check()
            message = str(raised.value)
            assert message.startswith(f"{tmp_path}: contains a different run; --fresh starts a new one next to it")
            assert message.splitlines()[1:] == [
                "  base: '0123' -> '4567'",
                "  experts.math: 'math-digest' -> None",
                "  evolution.seed: 0 -> 1",
                "  evolution.mu: 1.0 -> 0.9",
                "  in_flight: 1 -> 2",
            ]
    assert (tmp_path / JOURNAL_FILE).read_bytes() == before


def test_a_run_from_before_a_setting_existed_resumes(tmp_path: Path) -> None:
    recipe = synthetic_recipe(evolution={"warm_start": [0.5]})
    start = start_of(recipe, 1)
    earlier = {**start, "evolution": {key: value for key, value in start["evolution"].items() if key != "bins"}}
    for recorded, wanted, differs in (
        (earlier, recipe, []),
        (earlier, synthetic_recipe(evolution={"warm_start": [0.5], "bins": 7}), ["  evolution.bins: 15 -> 7"]),
        ({**start, "evolution": {**start["evolution"], "gone": 3}}, recipe, ["  evolution.gone: 3 -> None"]),
    ):
        with closing(Journal(tmp_path / str(len(list(tmp_path.iterdir()))))) as journal:
            journal.append(recorded)
            found: list[str] = []
            try:
                require_same(journal, start_of(wanted, 1))
            except UserError as error:
                found = str(error).splitlines()[1:]
            assert found == differs


def test_an_empty_folder_is_any_run(tmp_path: Path) -> None:
    with closing(Journal(tmp_path)) as journal:
        require_same(journal, {"event": "start"})
        assert journal.events == []


def test_a_process_that_died_before_its_first_evaluation_leaves_a_run_that_resumes(tmp_path: Path) -> None:
    recipe = synthetic_recipe()
    (tmp_path / "early").mkdir()
    with closing(Journal(tmp_path / "early")) as journal:
        journal.append(start_of(recipe, 1))
    run(tmp_path / "early", recipe)
    run(tmp_path / "whole", recipe)
    assert history(tmp_path / "early") == history(tmp_path / "whole")


def test_bounds_are_recorded_once_though_the_process_died_before_them(tmp_path: Path) -> None:
    run(tmp_path)
    lines = (tmp_path / JOURNAL_FILE).read_bytes().splitlines(keepends=True)
    whole = history(tmp_path)
    (tmp_path / JOURNAL_FILE).write_bytes(b"".join(lines[:5]))
    run(tmp_path)
    assert history(tmp_path) == whole


def test_different_singular_bases_cause_a_warning_and_the_run_continues(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = synthetic_recipe()
    with caplog.at_level(logging.WARNING):
        for digest in ("aaaa", "aaaa", "bbbb"):
            assert not caplog.records
            with closing(Journal(tmp_path)) as journal:
                resume_journal(journal, start_of(recipe, 1), session_of(recipe, {"sql": digest}))
    assert "sql: 'aaaa' -> 'bbbb'" in caplog.text


def test_settings_that_may_change_are_those_of_the_last_session(tmp_path: Path) -> None:
    run(tmp_path)
    run(tmp_path, synthetic_recipe(21, engine={"batch_size": 3}))
    sessions = of_kind(read_events(tmp_path), "session")
    assert [session["recipe"]["evolution"]["generations"] for session in sessions] == [20, 21]
    state = open_run(tmp_path)
    assert state.recipe.evolution.generations == 21
    assert state.recipe.engine.batch_size == 3


def test_seconds_are_recorded_with_each_score(tmp_path: Path) -> None:
    def positive(event: Event) -> bool:
        return len(event["seconds"]) == 2 and all(second >= 0 for second in event["seconds"])

    assert all(map(positive, run(tmp_path).results))
