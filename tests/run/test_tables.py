"""A run as a table, in a notebook and in one line, against its journal."""

from __future__ import annotations

from pathlib import Path

import pytest

from cycleqd_merge.run.state import Run, open_run
from tests.run.synthetic import run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A synthetic run of 12 children."""
    folder = tmp_path_factory.mktemp("run")
    run(folder)
    return open_run(folder)


def test_the_table_holds_every_evaluation_of_the_journal(made: Run, tmp_path: Path) -> None:
    table = made.to_pandas()
    assert list(table.index) == list(range(len(made.results)))
    for number, event in enumerate(made.results):
        row = table.loc[number]
        assert [row[f"search_{task}"] for task in made.tasks] == event["scores"]
        assert row["mean"] == pytest.approx(sum(event["scores"][: len(made.objectives)]) / len(made.objectives))
        assert row["generation"] == max(0, number - len(made.experts) + 1)
    assert set(table.index[table["elite"]]) == set(made.elites())


def test_a_run_introduces_itself_in_one_line(made: Run) -> None:
    text = repr(made)
    assert text.startswith("Run(")
    assert "\n" not in text
    assert len(text) < 300
    assert f"generation {made.generation} of {made.generations}" in text
    assert f"#{made.best_mean()}" in text


def test_a_notebook_shows_every_archive_and_escapes_names(made: Run) -> None:
    made.recipe = made.recipe.model_copy(update={"output": "<b>&"})
    html = made._repr_html_()
    assert all(f"<td>{task}</td>" in html for task in made.objectives)
    assert "&lt;b&gt;&amp;" in html
    assert "<b>&<" not in html
