"""Outcomes of rows in a run: recorded with each result, read again, and checked."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cycleqd_merge.errors import RecipeError
from cycleqd_merge.journal.log import JOURNAL_FILE, Journal, of_kind, read_events
from cycleqd_merge.journal.outcomes import RowOutcomes, outcomes_to_text
from cycleqd_merge.run.state import open_run
from tests.run.row_pool import ROWS, RowPool, evaluated
from tests.run.synthetic import history, run, synthetic_recipe


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 6 children."""
    folder = tmp_path_factory.mktemp("finished")
    run(folder, synthetic_recipe(6), in_flight=2, pool=RowPool())
    return folder


def test_every_rows_outcome_is_kept(finished: Path) -> None:
    opened = open_run(finished)
    for number, proposal in enumerate(opened.results):
        kept = opened.outcomes(number)
        assert list(kept) == opened.tasks
        again = evaluated(type("P", (), {"candidate": opened.candidate(number)})())  # type: ignore[arg-type]
        for task, result in again.results.items():
            np.testing.assert_array_equal(kept[task].scores, [each.score for each in result.outcomes])
            np.testing.assert_array_equal(kept[task].tokens, [each.tokens for each in result.outcomes])
            np.testing.assert_array_equal(kept[task].truncated, [each.truncated for each in result.outcomes])
        assert [each.mean for each in kept.values()] == pytest.approx(proposal["scores"], abs=1e-12)
    assert opened.outcomes(99) == {} == opened.outcomes(0, "confirm")


def test_a_child_of_720_rows_takes_less_than_a_kilobyte(finished: Path) -> None:
    for event in of_kind(read_events(finished), "result"):
        assert len(json.dumps(event["outcomes"])) < 1000


def test_results_without_outcomes_open_and_resume_the_same(finished: Path, tmp_path: Path) -> None:
    events = [{key: value for key, value in event.items() if key != "outcomes"} for event in read_events(finished)]
    (tmp_path / JOURNAL_FILE).write_text("".join(json.dumps(event) + "\n" for event in events))
    assert open_run(tmp_path).outcomes(3) == {}
    run(tmp_path, synthetic_recipe(9), in_flight=2, pool=RowPool())
    run(finished, synthetic_recipe(9), in_flight=2, pool=RowPool())
    assert history(tmp_path)[-3:] == history(finished)[-3:]


def rows(scores: list[float]) -> str:
    values = np.array(scores)
    return outcomes_to_text(RowOutcomes(values, np.zeros(len(values), np.int64), np.zeros(len(values), bool)))


def replaced(text: str, task: str = "sql") -> Callable[[dict[str, Any]], object]:
    return lambda event: event["outcomes"].update({task: text})


@pytest.mark.parametrize(
    "change",
    [
        replaced("nonsense"),
        replaced(rows([1.0, 0.0])),
        replaced(rows([0.0] * ROWS)),
        replaced(rows([1.0] * ROWS), "unknown"),
        lambda event: event.update(outcomes=["a"]),
        lambda event: event.update(outcomes={"sql": 5}),
    ],
)
def test_damaged_outcomes_are_one_line(
    finished: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    events = read_events(finished)
    change(events[7])
    (tmp_path / JOURNAL_FILE).write_text("".join(json.dumps(event) + "\n" for event in events))
    with pytest.raises(RecipeError, match=rf"^{tmp_path / JOURNAL_FILE}:8: damaged: [^\n]*$"):
        open_run(tmp_path)


def test_damaged_outcomes_of_a_confirmation_are_one_line(finished: Path, tmp_path: Path) -> None:
    events = read_events(finished)
    (tmp_path / JOURNAL_FILE).write_text("".join(json.dumps(event) + "\n" for event in events))
    with closing(Journal(tmp_path)) as journal:
        journal.append({"event": "confirm", "number": 3, "scores": [0.5, 0.5, 0.5], "outcomes": {"sql": rows([1.0])}})
    with pytest.raises(RecipeError, match=rf":{len(events) + 1}: damaged: task sql: outcomes of 1 rows instead of 0"):
        open_run(tmp_path)


def test_strategies_receive_the_variances_of_scores(finished: Path) -> None:
    opened = open_run(finished)
    for number in range(len(opened.results)):
        kept = opened.outcomes(number)
        assert opened.search.variances(number) == pytest.approx([kept[task].variance for task in opened.tasks])


def test_a_search_with_the_noise_of_rows_resumes_the_same_also_without_outcomes(tmp_path: Path) -> None:
    recipe = synthetic_recipe(16, strategy={"kind": "bayesian", "noise": "rows"})
    run(tmp_path / "whole", recipe, in_flight=2, pool=RowPool())
    part = synthetic_recipe(9, strategy={"kind": "bayesian", "noise": "rows"})
    run(tmp_path / "parts", part, in_flight=2, pool=RowPool())
    without = [
        {key: own for key, own in event.items() if key != "outcomes"} for event in read_events(tmp_path / "parts")
    ]
    (tmp_path / "parts" / JOURNAL_FILE).write_text("".join(json.dumps(event) + "\n" for event in without))
    run(
        tmp_path / "parts", recipe, in_flight=2, pool=RowPool()
    )  # scores of 0 and 1 have the same variance without them
    steps = [[event.get("step") for event in history(tmp_path / name)] for name in ("whole", "parts")]
    assert steps[0] == steps[1]
    fitted = synthetic_recipe(16, strategy={"kind": "bayesian"})
    run(tmp_path / "fitted", fitted, in_flight=2, pool=RowPool())
    assert history(tmp_path / "fitted")[-1].get("step") != history(tmp_path / "whole")[-1].get("step")
