"""A run that ends after a number of seconds of its workers: by what its journal records, never by a clock."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest

from cycleqd_merge.journal.log import JOURNAL_FILE, of_kind, read_events
from cycleqd_merge.run.state import open_run
from tests.run.synthetic import SyntheticPool, run, synthetic_recipe
from tests.run.test_state import state_of

LIMIT = 20.0


def recipe_of(kind: str, seconds: float = LIMIT) -> Any:
    return synthetic_recipe(500, strategy={"kind": kind}, evolution={"seconds": seconds})


def expected_results(folder: Path, in_flight: int, limit: float = LIMIT) -> int:
    """The result that reaches the limit, and those that were in flight with it."""
    spent = itertools.accumulate(sum(event["seconds"]) for event in of_kind(read_events(folder), "result"))
    return next(number for number, seconds in enumerate(spent) if seconds >= limit) + in_flight


@pytest.mark.parametrize("in_flight", [1, 3])
@pytest.mark.parametrize("kind", ["cycleqd", "random", "cma-es"])
def test_no_child_is_proposed_once_the_seconds_are_spent(tmp_path: Path, kind: str, in_flight: int) -> None:
    lived = run(tmp_path, recipe_of(kind), in_flight, SyntheticPool(order=1))
    expected = expected_results(tmp_path, in_flight)
    assert len(lived.results) == expected if kind != "cma-es" else expected - in_flight < len(lived.results) <= expected
    assert lived.generations == lived.generation < 500
    assert lived.busy_seconds == pytest.approx(sum(sum(event["seconds"]) for event in lived.results))
    again = open_run(tmp_path)
    assert again.schedule.done
    assert state_of(again) == state_of(lived)


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.99])
def test_a_run_killed_before_or_after_it_was_spent_ends_as_its_journal_says(tmp_path: Path, kept: float) -> None:
    run(tmp_path / "whole", recipe_of("cycleqd"), 3, SyntheticPool(order=1))
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    journal = tmp_path / "cut" / JOURNAL_FILE
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[: int(len(lines) * kept)]))
    resumed = run(tmp_path / "cut", recipe_of("cycleqd"), 3, SyntheticPool(order=2))
    assert len(resumed.results) == expected_results(tmp_path / "cut", 3)
    assert state_of(open_run(tmp_path / "cut")) == state_of(resumed)


def test_the_limit_can_be_raised_and_lowered_later(tmp_path: Path) -> None:
    short = run(tmp_path, recipe_of("cycleqd"), 2, SyntheticPool(order=1))
    longer = run(tmp_path, recipe_of("cycleqd", 2 * LIMIT), 2, SyntheticPool(order=5))
    assert longer.steps[: len(short.steps)] == short.steps
    assert len(longer.results) == expected_results(tmp_path, 2, 2 * LIMIT) > len(short.results)
    lowered = run(tmp_path, recipe_of("cycleqd", 1.0), 2, SyntheticPool(order=6))
    assert lowered.results == longer.results


def test_founders_are_scored_however_short_the_limit_is(tmp_path: Path) -> None:
    ended = run(tmp_path, recipe_of("random", 1e-6), 1, SyntheticPool())
    assert (len(ended.results), ended.generations) == (3, 0)
    assert ended.archives
