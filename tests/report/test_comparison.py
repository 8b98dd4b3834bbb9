"""The comparison on a run's page: found from either folder, and the same as what `compare` prints."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from cycleqd_merge.comparison.comparison_folder import open_run_or_comparison
from cycleqd_merge.comparison.page_section import page_section
from cycleqd_merge.comparison.table_formats import table_to_records
from cycleqd_merge.comparison.tables import comparison_report
from cycleqd_merge.errors import UserError
from cycleqd_merge.evolution.candidate import candidate_digest
from cycleqd_merge.evolution.genome import level_genome
from cycleqd_merge.journal.log import Journal
from cycleqd_merge.report.page import render_page
from cycleqd_merge.report.paired import paired_bootstrap
from cycleqd_merge.report.scores import compare_best, usual_scores
from tests.comparison.examples import example
from tests.report.runs import HELDOUT, make_comparison, make_run, measure_heldout
from tests.report.test_page import HOSTILE, Page


def page_at(folder: Path) -> Page:
    """The page that `report` writes of a folder."""
    opened = open_run_or_comparison(folder)
    section = None if opened.comparison is None else page_section(opened.comparison)
    return Page(render_page(opened.run, str(opened.folder), section, opened.verdict))


def test_a_comparisons_folder_opens_its_references_first_run(tmp_path: Path) -> None:
    make_comparison(tmp_path, example())
    run = tmp_path / "cycleqd/seed-0"
    whole, own = page_at(tmp_path), page_at(run)
    assert whole.data == own.data
    assert whole.data["export"] == f"cycleqd-merge export {run}"
    assert whole.rows == own.rows
    assert "#comparison" in [attributes.get("href") for _, attributes in whole.elements]


def test_other_runs_are_as_before(tmp_path: Path) -> None:
    make_comparison(tmp_path, example())
    make_run(tmp_path / "cycleqd/seed-7", tasks=2)  # in the folder, but no part of the comparison
    page = page_at(tmp_path / "cycleqd/seed-7")
    assert page.data["comparison"] is None
    assert "#comparison" not in [attributes.get("href") for _, attributes in page.elements]


def test_the_tables_are_those_that_compare_prints(tmp_path: Path) -> None:
    result = example()
    make_comparison(tmp_path, result)
    page = page_at(tmp_path)
    for name in ("models", "strategies"):
        for row in comparison_report(result).tables[name].formatted():
            (label, _), *cells = row
            assert page.rows[f"comparison-{name} {label}"] == [text for text, _ in cells]
    assert page.rows["comparison-models cma-es best-mean"][:4] == ["0.525", "0.375", "0.450", "0.132 to 0.768"]


def test_cells_are_sorted_by_their_values(tmp_path: Path) -> None:
    rows = page_section(example())["tables"]["models"]["rows"]
    table = comparison_report(example()).tables["models"]
    against = [column.heading for column in table.columns].index("against cycleqd best-mean")
    assert [row[against]["value"] for row in rows] == [
        None if record is None else record["estimate"]
        for record in (each["against cycleqd best-mean"] for each in table_to_records(table))
    ]
    assert rows[0][0]["value"] == "base"


def test_the_charts_have_a_line_per_strategy_and_winner() -> None:
    charts = page_section(example())["charts"]
    (cma, ours) = charts["curves"]["best_mean"]
    assert (cma["name"], cma["reference"], ours["name"], ours["reference"]) == ("cma-es", False, "cycleqd", True)
    assert (cma["evaluations"], cma["low"][-1], cma["high"][-1]) == ((2, 3, 4), 0.3, pytest.approx(0.45))
    lines = {line["name"]: line for line in charts["winners"]["lines"]}
    assert charts["winners"]["axes"] == ["sql", "bash", "mean"]
    assert lines["cycleqd best-mean"]["style"] == ours["style"]
    assert lines["cma-es best-mean"]["values"] == pytest.approx([0.525, 0.375, 0.45])
    assert len({line["style"] for line in lines.values()}) == len(lines)


def test_what_the_comparison_scored_counts_as_held_out(tmp_path: Path) -> None:
    state = make_comparison(tmp_path, example())
    page = page_at(tmp_path)
    best = state.best_mean()
    assert page.rows[f"scores-heldout best-mean #{best}"][:2] == ["0.875 ±0.088", "0.875 ±0.125"]
    assert page.data["evaluations"][best]["heldout"]["sql"] == {
        "score": 0.875,
        "error": 0.125,
        "samples": 4,
        "truncated": 0.25,
    }


@pytest.mark.parametrize(
    ("base", "says"), [([0.0, 0.0, 0.0, 0.25], "excludes zero."), ([1.0, 1.0, 1.0, 0.0], "includes zero, so")]
)
def test_models_that_the_comparison_scored_are_compared_row_by_row(
    tmp_path: Path, base: list[float], says: str
) -> None:
    run = make_comparison(tmp_path, example())
    digest = candidate_digest(level_genome(0.0, len(run.experts), len(run.groups)))
    with closing(Journal(tmp_path)) as journal:
        tasks = {task: {"scores": base, "truncated": 0.0} for task in run.tasks}
        journal.append({"event": "heldout", "candidate": digest, "tasks": tasks})
    opened = open_run_or_comparison(tmp_path)
    own = HELDOUT["best-mean"]
    expected = paired_bootstrap(dict.fromkeys(run.tasks, own), dict.fromkeys(run.tasks, base))
    assert opened.verdict is not None
    assert (opened.verdict.baseline, opened.verdict.split) == ("base", "heldout")
    assert opened.verdict.difference == expected.estimate == pytest.approx(fmean(own) - fmean(base))
    assert opened.verdict.interval == (expected.low, expected.high)
    assert opened.verdict.clear == (not expected.holds_zero) == (says == "excludes zero.")
    text = " ".join(render_page(opened.run, "run", None, opened.verdict).split())
    assert f"<b>{expected.estimate:+.3f}</b> (95%: {expected.low:+.3f} to {expected.high:+.3f}) against" in text
    assert f"paired by row, the 95% interval {says}" in text
    assert "The interval is over rows alone" in text


def test_a_runs_own_measurements_are_not_paired_with_rows_of_its_comparison(tmp_path: Path) -> None:
    make_comparison(tmp_path, example())
    measured = measure_heldout(tmp_path / "cycleqd/seed-0", HELDOUT)
    opened = open_run_or_comparison(tmp_path)
    assert opened.verdict == compare_best(usual_scores(measured), measured.objectives)
    assert opened.verdict is not None
    assert (opened.verdict.split, opened.verdict.interval) == ("heldout", None)


def test_hostile_names_stay_texts(tmp_path: Path) -> None:
    name = HOSTILE.replace("\ud83d", "")  # half a character can be no name: recipes are UTF-8
    models = [replace(each, name=name) if each.kind == "merge" else each for each in example().models]
    make_comparison(tmp_path, example(models=tuple(models)))
    page = page_at(tmp_path)
    assert [tag for tag, _ in page.elements].count("script") == 2
    assert "img" not in [tag for tag, _ in page.elements]
    assert name in [line["name"] for line in page.data["comparison"]["winners"]["lines"]]


def test_a_comparison_that_is_not_complete_or_damaged_is_refused(tmp_path: Path) -> None:
    make_comparison(tmp_path, example())
    file = tmp_path / "comparison.json"
    for damaged in ("{", json.dumps({"format": 99}), json.dumps({"format": 1, "tasks": ["sql"]})):
        file.write_text(damaged)
        with pytest.raises(UserError, match=r"comparison\.json: "):
            open_run_or_comparison(tmp_path)
    file.unlink()
    with pytest.raises(UserError, match="is not complete; resume it with `compare`"):
        open_run_or_comparison(tmp_path)
    assert open_run_or_comparison(tmp_path / "cycleqd/seed-0").comparison is None
