"""The page as a file: it embeds the content of the journal, and nothing in it can run or load anything."""

from __future__ import annotations

import json
import re
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from cycleqd_merge.errors import UserError
from cycleqd_merge.journal.log import Journal, of_kind, read_events
from cycleqd_merge.report.page import render_page, write_page
from cycleqd_merge.run.state import Run, open_run
from tests.cli.conftest import CliRun, cycleqd_merge, finished, models  # noqa: F401 (fixtures)
from tests.evolution.references import SlowArchive
from tests.report.runs import HELDOUT, make_run, measure_heldout
from tests.run.synthetic import session_of, start_of, synthetic_recipe

HOSTILE = "</script><script>document.title='taken'</script><img src=x onerror=alert(1)> & \u2028 \ud83d '\"`${1}"


class Page(HTMLParser):
    """Elements of a page, and the text of each table row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: dict[str, list[str]] = {}
        self._table, self._cells, self._script = "", [""], ""
        self.feed(text)
        self.data: dict[str, Any] = json.loads(self._script)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "table":
            self._table = dict(attrs).get("id") or ""
        if tag in ("td", "th"):
            self._cells.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "tr":
            self.rows[f"{self._table} {self._cells[1]}".strip()] = [cell.strip() for cell in self._cells[2:]]
            self._cells = [""]

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1] == ("script", {"type": "application/json", "id": "data"}):
            self._script += data
        self._cells[-1] += data


def page_of(state: Run, run: str = "runs/mine") -> Page:
    return Page(render_page(state, run))


@pytest.mark.parametrize("tasks", [2, 3, 4])
def test_the_embedded_data_is_the_content_of_the_journal(tmp_path: Path, tasks: int) -> None:
    state = make_run(tmp_path, tasks)
    events = read_events(tmp_path)
    results, data = of_kind(events, "result"), page_of(state).data
    bounds = tuple(tuple(pair) for pair in of_kind(events, "bounds")[0]["bounds"])
    assert [entry["scores"] for entry in data["evaluations"]] == [event["scores"] for event in results]
    assert [entry["step"].get("parents") for entry in data["evaluations"]] == [
        e["step"].get("parents") for e in results
    ]
    assert len(data["archives"]) == tasks
    for task, archive in enumerate(data["archives"]):
        slow = SlowArchive(task, bounds, [6] * tasks)
        for event in results:
            slow.add(event["number"], tuple(event["scores"]))
        assert {tuple(elite["cell"]): elite["number"] for elite in archive["elites"]} == {
            cell: number for cell, (number, _) in slow.cells.items()
        }
        assert archive["others"] == [name for name in data["objectives"] if name != archive["task"]]
        assert archive["qd_score"] == pytest.approx(sum(scores[task] for _, scores in slow.cells.values()))
    confirmed = {event["number"]: event["scores"] for event in of_kind(events, "confirm")}
    assert {n: e["confirm"] for n, e in enumerate(data["evaluations"]) if "confirm" in e} == confirmed
    assert data["bestMean"] == state.best_mean()
    assert len(data["history"]) == 41


def test_the_tables_show_the_scores_of_the_journal(tmp_path: Path) -> None:
    make_run(tmp_path)
    without = page_of(open_run(tmp_path))
    assert "scores-heldout base" not in without.rows
    state = measure_heldout(tmp_path, HELDOUT)
    rows = page_of(state).rows
    best = f"best-mean #{state.best_mean()}"
    assert rows["scores-heldout base"][:2] == ["0.250 ±0.144", "0.250 ±0.250"]  # samples 0 0 0 1 on three tasks
    assert rows[f"scores-heldout {best}"][:2] == ["0.875 ±0.072", "0.875 ±0.125"]
    assert "scores-heldout expert:sql" not in rows
    for name, number in {"expert:bash": 1, best: state.best_mean()}.items():
        shown = [cell.split(" ±")[0] for cell in rows[f"scores-search {name}"][1:4]]
        assert shown == [f"{score:.3f}" for score in state.scores(number)]
    heldout = page_of(state).data["evaluations"][state.best_mean()]["heldout"]
    assert heldout["sql"] == {"score": 0.875, "error": 0.125, "samples": 4, "truncated": 0.0}


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    state = make_run(tmp_path / "run", failure=lambda number: HOSTILE if number % 9 == 4 else None)
    write_page(state, f"runs/{HOSTILE}", tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text())
    assert [tag for tag, _ in page.elements].count("script") == 2
    assert "img" not in [tag for tag, _ in page.elements]
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert page.data["evaluations"][4]["error"] == HOSTILE.encode(errors="replace").decode()  # as the journal has it
    assert page.data["export"].startswith("cycleqd-merge export 'runs/</script>")


def test_a_page_loads_nothing(tmp_path: Path) -> None:
    text = render_page(make_run(tmp_path), "run")
    page = Page(text)
    links = [value for _, attributes in page.elements for name in ("src", "href") if (value := attributes.get(name))]
    assert all(link.startswith(("#", "data:")) for link in links)
    assert "default-src 'none'" in text
    assert set(re.findall(r"https?://[^\s\"'<]*", text)) == {"http://www.w3.org/2000/svg"}
    assert "@import" not in text
    assert "url(" not in text


def test_a_run_that_has_scored_nothing_yet_has_a_page(tmp_path: Path) -> None:
    recipe = synthetic_recipe(5)
    with closing(Journal(tmp_path)) as journal:
        journal.append(start_of(recipe, 1))
        journal.append(session_of(recipe))
    page = page_of(open_run(tmp_path))
    assert (page.data["archives"], page.data["evaluations"], page.data["history"]) == ([], [], [])
    assert page.data["bestMean"] is None


def test_failed_experts_are_shown(tmp_path: Path) -> None:
    state = make_run(tmp_path, failure=lambda number: "out of memory" if number == 1 else None)
    text = render_page(state, "run")
    assert "1 failed evaluation<" in text
    assert "<b>#1</b> out of memory" in text
    assert "scores-search expert:bash" not in Page(text).rows


def test_the_command_writes_the_page_of_a_real_run(finished: CliRun, tmp_path: Path) -> None:  # noqa: F811
    evaluated = cycleqd_merge("evaluate", finished.folder, "--json").json
    answer = cycleqd_merge("report", finished.folder, "--output", tmp_path / "new" / "page.html")
    assert (answer.code, answer.out.strip()) == (0, str(tmp_path / "new" / "page.html"))
    page = Page((tmp_path / "new" / "page.html").read_text())
    for name in ("base", "expert:first", "mean", "aggregate"):
        scores = [task["score"] for task in evaluated[name].values()]
        assert [cell.split(" ±")[0] for cell in page.rows[f"scores-heldout {name}"][1:3]] == [
            f"{s:.3f}" for s in scores
        ]
    assert page.data["export"] == f"cycleqd-merge export {finished.folder}"


def test_a_page_that_cannot_be_written_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"page\.html: cannot be written"):
        write_page(make_run(tmp_path / "run", generations=0), "run", tmp_path / "file" / "page.html")
