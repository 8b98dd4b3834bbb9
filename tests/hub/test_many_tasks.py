"""Six tasks: archives by dominated novelty, from the plan to a published run that continues elsewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path

from cycleqd_merge.evolution.archive import Archive
from cycleqd_merge.evolution.novelty import NoveltyArchive
from cycleqd_merge.journal.log import read_events
from cycleqd_merge.run.state import open_run
from tests.cli.conftest import MUTATION, cycleqd_merge
from tests.hub.conftest import Parents, pushed, put_parents, write_task
from tests.hub.server import LocalHub
from tests.run.synthetic import history

TASKS = ("a", "ab", "abc", "abcd", "abcde", "abcdef")
CAPACITY = 4


def write_recipe(folder: Path, **evolution: object) -> Path:
    """Six tasks, of which the first two have experts."""
    folder.mkdir(parents=True)
    tasks = []
    for place, name in enumerate(TASKS):
        definition = write_task(folder, name)
        use = {"task": definition, "name": name, "bounds": [0.0, 1.0]}
        tasks.append({**use, "expert": ("tuned", "adapted")[place]} if place < 2 else use)
    recipe = {
        "base": "lab/base",
        "experts": {"tuned": "lab/tuned", "adapted": "lab/base+lab/first"},
        "tasks": tasks,
        "evolution": {"generations": 7, "in_flight": 2, "seed": 1, "mutation": MUTATION, **evolution},
        "confirm": {"top": 0},
        "output": str(folder / "run"),
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    return path


def test_six_tasks_from_the_plan_to_a_published_run(hub: LocalHub, parents: Parents, tmp_path: Path) -> None:
    put_parents(hub, parents)
    here = write_recipe(tmp_path / "here", archive={"kind": "dominated-novelty", "capacity": CAPACITY})
    planned = cycleqd_merge("plan", here, "--no-measure")
    assert planned.code == 0
    assert f"dominated novelty, up to {CAPACITY} elites each" in planned.out
    evolved = cycleqd_merge("evolve", here)
    assert (evolved.code, evolved.err) == (0, "")
    folder = tmp_path / "here" / "run"
    run = open_run(folder)
    assert read_events(folder)[0]["evolution"]["archive"] == {"kind": "dominated-novelty", "capacity": CAPACITY}
    refilled = [NoveltyArchive(task, archive.bounds, [15] * 6, CAPACITY) for task, archive in enumerate(run.archives)]
    for event in run.results:
        for archive in refilled:
            archive.add(event["number"], tuple(event["scores"]))
    assert [archive.elites() for archive in run.archives] == [archive.elites() for archive in refilled]
    assert all(len(archive.elites()) == CAPACITY for archive in run.archives)
    parents_of = {number for step in run.steps for number in step.get("parents", [])}
    assert len(parents_of) > 2

    shown = cycleqd_merge("show", folder, "--json").json["archives"]
    assert [(each["coverage"], len(each["elites"])) for each in shown.values()] == [(1.0, CAPACITY)] * 6
    best = run.archives[1].best()
    assert best is not None
    named = f"ab:{','.join(map(str, best.cell))}"
    assert re.search(named, cycleqd_merge("show", folder).out)
    assert cycleqd_merge("show", folder, "--elite", named).code == 0
    assert cycleqd_merge("report", folder).code == 0

    pushed(folder, "--repo", "ann/run", "--archive-only", "--rows")
    there = tmp_path / "there"
    pulled = cycleqd_merge("pull", "ann/run-archive", there)
    assert (pulled.code, pulled.err) == (0, "")
    for each in (folder, there):
        answer = cycleqd_merge("evolve", each, "--generations", 8)
        assert answer.code == 0, answer.err
    assert history(there) == history(folder)


def test_by_default_six_tasks_need_no_setting_and_older_runs_keep_their_grids(
    hub: LocalHub, parents: Parents, tmp_path: Path
) -> None:
    put_parents(hub, parents)
    novel = write_recipe(tmp_path / "novel", generations=1, bins=4)
    assert cycleqd_merge("evolve", novel).code == 0
    assert {archive.reachable for archive in open_run(tmp_path / "novel" / "run").archives} == {100}
    grid = write_recipe(tmp_path / "grid", generations=1, bins=4, archive={"kind": "grid"})
    assert cycleqd_merge("evolve", grid).code == 0
    folder = tmp_path / "grid" / "run"
    assert "archive" not in read_events(folder)[0]["evolution"]  # as in a journal from before there was the key
    stated = json.loads(grid.read_text())
    del stated["evolution"]["archive"]
    grid.write_text(json.dumps(stated))
    assert cycleqd_merge("evolve", grid, "--generations", 2).code == 0
    assert {type(archive) for archive in open_run(folder).archives} == {Archive}
