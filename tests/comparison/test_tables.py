"""The tables of the example in all four formats, against values computed by hand."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from cycleqd_merge.comparison import table_formats, tables
from cycleqd_merge.comparison.statistics import Gap
from cycleqd_merge.comparison.table_formats import Column, ComparisonTable
from cycleqd_merge.report.paired import Interval
from tests.comparison.examples import example

TABLE = ComparisonTable(
    "All | kinds",
    (
        Column("name"),
        Column("score", table_formats.score, best=True),
        Column("interval", table_formats.change),
        Column("gap", table_formats.gap),
        Column("seeds", table_formats.scores),
    ),
    (
        ("[a]|b", 0.25, None, Gap(0.5, None), (0.25,)),
        ("c", 0.5, Interval(-0.125, -0.25, 0.0625), None, (0.5, 0.75)),
    ),
    {0: "first", 1: "second"},
)


def terminal_text(shown: object, width: int = 240) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(shown)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_markdown_has_sections_and_marks_the_best() -> None:
    assert table_formats.table_to_markdown(TABLE).splitlines() == [
        r"**All \| kinds**",
        "",
        "| name | score | interval | gap | seeds |",
        "| :-- | --: | --: | --: | --: |",
        "| *first* |  |  |  |  |",
        r"| \[a\]\|b | 0.250 | - | +0.500 | 0.250 |",
        "| *second* |  |  |  |  |",
        "| c | **0.500** | -0.125 (-0.250 to +0.062) | - | 0.500 0.750 |",
    ]


def test_csv_is_precise_and_gives_parts_columns_of_their_own() -> None:
    rows = list(csv.DictReader(io.StringIO(table_formats.table_to_csv(TABLE))))
    assert rows[0] == {
        "section": "first",
        "name": "[a]|b",
        "score": "0.25",
        "interval: estimate": "",
        "interval: low": "",
        "interval: high": "",
        "gap: difference": "0.5",
        "gap: error": "",
        "seeds": "0.25",
    }
    assert (rows[1]["interval: high"], rows[1]["gap: difference"], rows[1]["seeds"]) == ("0.0625", "", "0.5 0.75")


def test_json_holds_the_values() -> None:
    assert json.loads(json.dumps(table_formats.table_to_records(TABLE)))[1] == {
        "section": "second",
        "name": "c",
        "score": 0.5,
        "interval": {"estimate": -0.125, "low": -0.25, "high": 0.0625},
        "gap": None,
        "seeds": [0.5, 0.75],
    }


def test_terminal_shows_names_as_they_are() -> None:
    text = terminal_text(table_formats.TerminalTable(TABLE))
    assert "[a]|b" in text
    assert "-0.125 (-0.250 to +0.062)" in text


def test_a_narrow_terminal_gets_tables_below_each_other() -> None:
    report = tables.comparison_report(example())
    table = report.tables["models"]
    lines = terminal_text(table_formats.TerminalTable(table), width=80).splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("│ cycleqd aggregate " in line for line in lines) > 1
    for row in table.formatted():  # nothing is broken or lost
        for text, _ in row:
            assert any(f" {text} " in line for line in lines)
    assert (
        sum("│ cycleqd aggregate " in line for line in terminal_text(table_formats.TerminalTable(table)).splitlines())
        == 1
    )


def test_a_table_without_rows_has_its_headings() -> None:
    empty = ComparisonTable("none", TABLE.columns, ())
    assert table_formats.table_to_markdown(empty).splitlines()[2:] == [
        "| name | score | interval | gap | seeds |",
        "| :-- | --: | --: | --: | --: |",
    ]
    assert table_formats.table_to_csv(empty) == "name,score,interval,gap,seeds\n"


def test_models_are_tabled_with_all_that_is_known_of_them() -> None:
    rows = {
        row["model"]: row
        for row in table_formats.table_to_records(tables.comparison_report(example()).tables["models"])
    }
    assert list(rows) == [
        "base",
        "expert:sql",
        "expert:bash",
        "ties (best of 6)",
        "cma-es best-mean",
        "cycleqd best-mean",
        "cycleqd aggregate",
    ]
    merge = rows["ties (best of 6)"]
    assert (merge["sql"], merge["bash"], merge["mean"]) == (0.3, 0.3, pytest.approx(0.3))
    assert (merge["mean by seed"], merge["95% over seeds"]) == ([pytest.approx(0.3)], None)
    assert merge["against cycleqd best-mean"]["estimate"] == pytest.approx(-0.2)
    assert rows["cma-es best-mean"]["mean by seed"] == pytest.approx([0.425, 0.475])
    assert rows["cma-es best-mean"]["search - held-out"]["difference"] == pytest.approx(0.35)


def test_intervals_say_what_they_are_over() -> None:
    report = tables.comparison_report(example())
    headings = [column.title for column in report.tables["models"].columns]
    against = "against cycleqd best-mean"
    assert [each for each in headings if "95%" in each] == [
        "95% over seeds",
        f"{against} (95% over rows)",
        f"{against} over rows and seeds (95%)",
    ]
    text = table_formats.table_to_csv(report.tables["models"])
    assert f"{against} (95% over rows): low," in text
    values = tables.report_to_json(report)
    row = next(each for each in values["tables"]["models"] if each["model"] == "cma-es best-mean")
    assert row[against]["high"] < 0 < row[f"{against} over rows and seeds"]["high"]
    assert values["contest"]["difference"]["low"] > 0 > values["contest"]["over_rows_and_seeds"]["low"]


def test_without_several_seeds_there_is_no_column_over_them() -> None:
    once = tuple(replace(model, by_seed=model.by_seed[:1]) for model in example().models)
    report = tables.comparison_report(example(models=once))
    headings = [column.title for column in report.tables["models"].columns]
    assert "against cycleqd best-mean (95% over rows)" in headings
    assert not any("rows and seeds" in each for each in headings)
    assert "over_rows_and_seeds" not in tables.report_to_json(report)["contest"]
    assert any(line.startswith("Only one seed of cma-es, cycleqd") for line in report.warnings)


def test_strategies_are_averaged_over_their_seeds() -> None:
    cma, ours = table_formats.table_to_records(tables.comparison_report(example()).tables["strategies"])
    assert (cma["strategy"], cma["seeds"], cma["evaluations"], cma["failed"]) == ("cma-es", 2, 4.0, 0.5)
    assert (cma["minutes"], ours["evaluations"]) == (1.5, 4.5)
    assert cma["best mean (search)"] == pytest.approx((0.3 + 0.45) / 2)
    assert cma["hypervolume (search)"] == pytest.approx((0.09 + 0.2) / 2)
    assert ours["hypervolume (held-out)"] == pytest.approx((0.12 + 0.12 - 0.04 + 0.24) / 2)
    assert ours["95% over seeds"]["estimate"] == pytest.approx(ours["hypervolume (held-out)"])


def test_tables_in_the_papers_layout() -> None:
    found = tables.comparison_report(example()).tables
    assert table_formats.table_to_markdown(found["table-1"]).splitlines()[2:] == [
        "| \\# | model | sql | bash | average |",
        "| --: | :-- | --: | --: | --: |",
        "|  | *Base model* |  |  |  |",
        "| 0 | base | 10.0 | 10.0 | 10.0 |",
        "|  | *Fine-tuned* |  |  |  |",
        "| 1 | expert:sql | 40.0 | 10.0 | 25.0 |",
        "| 2 | expert:bash | 10.0 | 30.0 | 20.0 |",
        "|  | *Merged* |  |  |  |",
        "| 3 | ties (best of 6) | 30.0 | 30.0 | 30.0 |",
        "|  | *Searched* |  |  |  |",
        "| 4 | cma-es best-mean | 52.5 | 37.5 | 45.0 |",
        "| 5 | cycleqd best-mean | **60.0** | 40.0 | 50.0 |",
        "| 6 | cycleqd aggregate | **60.0** | **45.0** | **52.5** |",
    ]
    assert table_formats.table_to_markdown(found["ablations"]).splitlines()[2:] == [
        "| \\# | strategy | sql | bash | average |",
        "| --: | :-- | --: | --: | --: |",
        "| 0 | cma-es | 52.5 | 37.5 | 45.0 |",
        "| 1 | cycleqd | **60.0** | **40.0** | **50.0** |",
    ]


def test_every_format_of_the_report_says_the_same() -> None:
    report = tables.comparison_report(example())
    assert report.best is not None
    assert report.conclusions
    assert report.warnings
    shown, written = terminal_text(tables.report_to_terminal(report)), tables.report_to_markdown(report)
    for line in (*report.conclusions, *report.warnings):
        assert line in shown
        assert line.replace("_", r"\_") in written
    values = json.loads(json.dumps(tables.report_to_json(report), allow_nan=False))
    assert values["contest"]["rival"] == "cma-es best-mean"
    assert values["warnings"] == list(report.warnings)
    assert (
        list(values["tables"]) == list(tables.report_to_csv(report)) == ["models", "strategies", "table-1", "ablations"]
    )
    for name, text in tables.report_to_csv(report).items():
        assert len(list(csv.reader(io.StringIO(text)))) == 1 + len(values["tables"][name])


def test_tables_of_strategies_are_left_out_where_none_was_compared() -> None:
    fixed_only = tuple(model for model in example().models if model.strategy is None)
    report = tables.comparison_report(example(models=fixed_only, reference="base", runs=()))
    assert list(report.tables) == ["models", "table-1"]
