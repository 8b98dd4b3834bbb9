"""`fork`: a run that starts from the archives of another."""

from __future__ import annotations

import json
from pathlib import Path

from cycleqd_merge.journal.log import JOURNAL_FILE, of_kind, read_events
from cycleqd_merge.run.state import open_run
from tests.cli.conftest import CliRun, cycleqd_merge, write_task


def elites(folder: Path) -> dict[int, list[float]]:
    """Scores by number of all elites that are not experts."""
    archives = cycleqd_merge("show", folder, "--json").json["archives"].values()
    return {
        elite["evaluation"]: list(elite["scores"].values())
        for archive in archives
        for elite in archive["elites"]
        if elite["evaluation"] > 1
    }


def test_a_fork_starts_from_the_elites_with_their_scores(finished: CliRun, tmp_path: Path) -> None:
    answer = cycleqd_merge("fork", finished.folder, tmp_path / "fork", "--set", "evolution.mu=0.9")
    assert (answer.code, answer.err) == (0, "")
    wanted = sorted(elites(finished.folder))
    seeds = read_events(tmp_path / "fork")[0]["seeds"]
    assert [seed["from"] for seed in seeds] == wanted != []
    results = of_kind(read_events(tmp_path / "fork"), "result")
    assert [event["step"] for event in results[2 : 2 + len(seeds)]] == [{"seed": n} for n in range(len(seeds))]
    before, after = open_run(finished.folder), open_run(tmp_path / "fork")
    for place, (number, seed, event) in enumerate(zip(wanted, seeds, results[2:], strict=False), start=2):
        for task, rows in before.outcomes(number).items():
            assert after.outcomes(place)[task].scores.tolist() == rows.scores.tolist()
        assert before.outcomes(number)
        assert event["scores"] == elites(finished.folder)[number]
        shown = cycleqd_merge("show", finished.folder, "--elite", f"#{number}", "--json").json
        assert seed["genome"] == shown["genome"]
    assert f"founder 1/{len(seeds)}: " in answer.out
    assert len(results) == 2 + len(seeds) + 4
    lineage = cycleqd_merge("show", tmp_path / "fork", "--elite", "#2")
    assert "founder 0" in lineage.out


def test_a_fork_evaluates_changed_tasks(finished: CliRun, tmp_path: Path) -> None:
    other = write_task(tmp_path, "other", kind="multiple_choice", choices=list("cba"))
    tasks = json.loads(finished.recipe.read_text())["tasks"]
    same = {**tasks[0], "task": str(finished.recipe.parent / tasks[0]["task"])}
    changed = [same, {**tasks[1], "task": str(other), "name": "letters"}]
    settings = (f"tasks={json.dumps(changed)}", "evolution.generations=0")
    options = [option for setting in settings for option in ("--set", setting)]
    answer = cycleqd_merge("fork", finished.folder, tmp_path / "fork", *options)
    assert (answer.code, answer.err) == (0, "")
    before = elites(finished.folder)
    seeds = read_events(tmp_path / "fork")[0]["seeds"]
    assert seeds
    for seed, event in zip(seeds, of_kind(read_events(tmp_path / "fork"), "result")[2:], strict=True):
        assert seed["scores"] == {"vowels": before[seed["from"]][0]}
        assert event["scores"][0] == before[seed["from"]][0]
    number = f"#{2 + len(seeds) - 1}"
    measured = cycleqd_merge("evaluate", tmp_path / "fork", number, "--split", "search", "--json").json[number]
    assert [result["score"] for result in measured.values()] == event["scores"]


def test_a_fork_keeps_models_and_groups(finished: CliRun, tmp_path: Path) -> None:
    answer = cycleqd_merge("fork", finished.folder, tmp_path / "fork", "--set", "evolution.groups={layers: 1}")
    assert answer.code == 2
    assert answer.err.startswith("error: evolution.groups: a fork keeps the run's evolution.groups")
    assert not (tmp_path / "fork").exists()
    (tmp_path / "fork").mkdir()
    answer = cycleqd_merge("fork", finished.folder, tmp_path / "fork")
    assert (answer.code, answer.err) == (2, f"error: {tmp_path / 'fork'}: already exists; choose a different folder\n")


def test_a_fork_that_was_interrupted_before_its_first_event_can_be_repeated(finished: CliRun, tmp_path: Path) -> None:
    (tmp_path / "fork").mkdir()
    for name in (JOURNAL_FILE, "lock", "run.log"):
        (tmp_path / "fork" / name).touch()
    command = ("fork", finished.folder, tmp_path / "fork", "--set", "evolution.generations=0")
    assert cycleqd_merge(*command).code == 0
    assert cycleqd_merge(*command).code == 2
