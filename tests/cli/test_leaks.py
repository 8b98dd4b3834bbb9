"""Held-out rows that equal search rows are reported by `plan`, `evolve`, `evaluate` and the cards."""

from __future__ import annotations

from pathlib import Path

import pytest

from cycleqd_merge.hub.card import archive_card, model_card
from cycleqd_merge.hub.facts import card_facts, model_facts
from cycleqd_merge.journal.log import of_kind, read_events
from cycleqd_merge.run.elites import choose
from cycleqd_merge.run.state import open_run
from tests.cli.conftest import Models, cycleqd_merge, write_recipe


def test_leaked_rows_are_reported_wherever_held_out_scores_are(
    models: Models, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = write_recipe(tmp_path, models, evolution={"generations": 1, "bins": 10})
    searched, heldout = (tmp_path / f"letters-{split}.jsonl" for split in ("search", "heldout"))
    first, second, *_ = searched.read_text().splitlines(keepends=True)
    heldout.write_text(heldout.read_text() + first + second.replace(": ", ":   "))
    notice = f"task letters: 2 of 14 held-out rows are also search rows, such as {heldout}:13; "
    assert notice in " ".join(cycleqd_merge("plan", recipe, "--json", "--no-measure").json["notices"])

    assert cycleqd_merge("evolve", recipe).code == 0
    assert caplog.text.count(notice) == 1
    run = open_run(tmp_path / "run")
    assert of_kind(read_events(tmp_path / "run"), "session")[0]["leaked"] == {"letters": 2}

    caplog.clear()
    found = cycleqd_merge("evaluate", run.recipe.output, "base", "--json").json["base"]
    assert {task: result.get("leaked") for task, result in found.items()} == {"vowels": None, "letters": 2}
    assert caplog.text.count(notice) == 1
    limited = cycleqd_merge("evaluate", run.recipe.output, "base", "--limit", "13", "--json").json["base"]
    assert limited["letters"]["leaked"] == 1
    caplog.clear()
    on_search = cycleqd_merge("evaluate", run.recipe.output, "base", "--split", "search", "--json").json["base"]
    assert "leaked" not in on_search["letters"]
    assert notice not in caplog.text

    state = open_run(tmp_path / "run")
    facts = card_facts(state, "me/model")
    chosen = choose(state, "expert:first")
    assert facts.leaked == {"letters": 2}
    cards = (archive_card(facts), model_card(model_facts(facts, state, chosen.label, chosen.genome, chosen.number)))
    for card in cards:
        text = "which the search never saw, except for rows that equal search rows (letters: 2) (mean"
        assert text in card.text


def test_a_run_without_leaks_says_nothing(models: Models, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, models, evolution={"generations": 1, "bins": 10})
    answer = cycleqd_merge("evolve", recipe)
    assert (answer.code, answer.err) == (0, "")
    assert "leaked" not in of_kind(read_events(tmp_path / "run"), "session")[0]
