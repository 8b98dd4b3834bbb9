"""A comparison that version 0.1.0 wrote (random and paper on the quickstart, with --tune) stays readable."""

from __future__ import annotations

import json
from pathlib import Path

from cycleqd_merge.comparison.comparison_folder import open_run_or_comparison, read_result
from cycleqd_merge.comparison.results import result_to_json
from cycleqd_merge.comparison.tables import comparison_report, report_to_json

OLD = Path(__file__).parents[1] / "data" / "comparison-0.1"


def test_its_result_is_read_and_written_again_byte_for_byte() -> None:
    written = json.dumps(result_to_json(read_result(OLD)), indent=1) + "\n"
    assert written == (OLD / "comparison.json").read_text()


def test_its_tables_are_those_that_it_printed() -> None:
    printed = json.loads((OLD / "printed.json").read_text())
    report = report_to_json(comparison_report(read_result(OLD)))
    assert list(report) == list(printed)
    assert (report["tables"], report["contest"]) == (printed["tables"], printed["contest"])


def test_its_runs_open_with_their_final_scores() -> None:
    opened = open_run_or_comparison(OLD)
    assert opened.folder == OLD / "random" / "seed-0"
    scores = read_result(OLD).by_name["random best-mean"].by_seed[0].heldout
    best = opened.run.digest(opened.run.candidate(opened.run.best_mean()))
    found = {task: estimate.score for task, estimate in opened.run.measured[best, "confirm"].items()}
    assert found == {task: sum(rows) / len(rows) for task, rows in scores.items()}
    assert open_run_or_comparison(OLD / "paper" / "seed-0").comparison == opened.comparison
