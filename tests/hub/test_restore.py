"""`pull`: a published run opens elsewhere, shows, exports, and continues as it would have on the first machine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cycleqd_merge.hub.archive import continues
from cycleqd_merge.journal.log import JOURNAL_FILE, read_events
from cycleqd_merge.run.state import open_run
from tests.cli.conftest import cycleqd_merge
from tests.hub.conftest import Parents, pushed, put_parents, write_recipe
from tests.hub.server import LocalHub
from tests.models import read_tensors
from tests.run.synthetic import history

ARCHIVE, MODEL = "ann/run-archive", "ann/run"
EXPERTS = {"tuned": "lab/tuned", "adapted": "lab/base+lab/first"}


def test_a_pulled_run_continues_as_the_original(hub: LocalHub, parents: Parents, tmp_path: Path) -> None:
    put_parents(hub, parents)
    recipe = write_recipe(tmp_path / "here", "lab/base", EXPERTS)
    assert cycleqd_merge("evolve", recipe).code == 0
    pushed(tmp_path / "here" / "run", "--repo", MODEL, "--archive-only", "--rows")
    there = tmp_path / "there"
    answer = cycleqd_merge("pull", ARCHIVE, there)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith(f"{there}: generation 4, ")
    shutil.rmtree(tmp_path / "here" / "run" / "figures", ignore_errors=True)
    (tmp_path / "here").rename(tmp_path / "gone")
    assert cycleqd_merge("evolve", there, "--generations", 9).code == 0
    whole = write_recipe(tmp_path / "whole", "lab/base", EXPERTS)
    assert cycleqd_merge("evolve", whole, "--generations", 4).code == 0
    assert cycleqd_merge("evolve", whole, "--generations", 9).code == 0
    assert history(there) == history(tmp_path / "whole" / "run")
    assert open_run(there).generation == 9


def test_it_shows_plots_and_exports_what_it_did_before(
    hub: LocalHub, parents: Parents, run: Path, original: Path, tmp_path: Path
) -> None:
    pushed(run, "--repo", MODEL, "--archive-only")
    local = ["--set", f"base={parents.base}", "--set", f"experts.tuned={parents.tuned}"]
    local += ["--set", f"experts.adapted={parents.base}+{parents.first}"]
    there = tmp_path / "there"
    pulled = cycleqd_merge("pull", ARCHIVE, there, *local)
    assert pulled.code == 0
    assert "not part of the archive; put the file there before you resume the run" in pulled.out
    before, after = (cycleqd_merge("show", folder, "--json").json for folder in (run, there))
    assert {**before, "base": "", "experts": {}} == {**after, "base": "", "experts": {}}
    assert cycleqd_merge("plot", there).code == 0
    answer = cycleqd_merge("evolve", there, "--generations", 5)
    assert answer.code == 2
    assert "no such file" in answer.err
    for name in ("vowels", "letters"):
        for split in ("search", "heldout"):
            wanted = there / "rows" / f"{name}-{name}-{split}.jsonl"
            assert str(wanted) in pulled.out
            wanted.parent.mkdir(exist_ok=True)
            shutil.copy(original.parent / f"{name}-{split}.jsonl", wanted)
    for folder in (run, there):
        assert cycleqd_merge("export", folder, "aggregate", folder / "model").code == 0
    one, two = read_tensors(run / "model"), read_tensors(there / "model")
    assert all((one[name] == two[name]).all() for name in one)
    assert cycleqd_merge("evolve", there, "--generations", 5).code == 0


TEMPLATED = {"kind": "lm_eval", "task": "gsm8k", "overrides": {"doc_to_text": "{{ ''.__class__ }}"}}
"""A task whose template lm-evaluation-harness renders without a sandbox."""


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("strategy", {"kind": "python", "target": "evil.py:Strategy"}),
        ("models", {"trust_remote_code": True}),
        ("engine", {"kind": "vllm", "options": {"worker_cls": "evil"}}),
        ("tasks", [{"task": TEMPLATED, "name": name} for name in ("one", "two")]),
    ],
)
def test_published_code_does_not_run_without_permission(
    key: str, value: object, hub: LocalHub, run: Path, tmp_path: Path
) -> None:
    pushed(run, "--repo", MODEL, "--archive-only")
    start, session, *rest = [json.loads(line) for line in hub.read(ARCHIVE, JOURNAL_FILE, "dataset").splitlines()]
    session["recipe"][key] = value
    lines = "".join(json.dumps(event) + "\n" for event in (start, session, *rest))
    hub.put(ARCHIVE, {JOURNAL_FILE: lines.encode(), "evil.py": b"open('ran', 'w')"}, "dataset")
    answer = cycleqd_merge("pull", ARCHIVE, tmp_path / "there")
    assert answer.code == 2
    assert "its recipe runs code" in answer.err
    assert not (tmp_path / "there").exists()


def publish_changed(hub: LocalHub, run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Publish a run with a changed recipe, as somebody with bad intentions might."""
    pushed(run, "--repo", MODEL, "--archive-only")
    events = [json.loads(line) for line in hub.read(ARCHIVE, JOURNAL_FILE, "dataset").splitlines()]
    change(events[1]["recipe"])
    hub.put(ARCHIVE, {JOURNAL_FILE: "".join(json.dumps(event) + "\n" for event in events).encode()}, "dataset")


OUTSIDE = {
    "rows": lambda path: lambda recipe: recipe["tasks"][0]["task"]["data"]["search"].update(path=path),
    "dataset": lambda path: lambda recipe: recipe["tasks"][0]["task"]["data"].update(search={"dataset": path}),
    "template": lambda path: lambda recipe: recipe.update(models={"chat_template": path}),
    "base": lambda path: lambda recipe: recipe.update(base=path),
    "adapter": lambda path: lambda recipe: recipe["experts"].update(adapted=f"./models/base+{path}"),
}


@pytest.mark.parametrize("path", ["/etc/passwd", "../../secret.jsonl"])
@pytest.mark.parametrize("place", OUTSIDE)
def test_a_published_run_reads_nothing_outside_its_folder(
    place: str, path: str, hub: LocalHub, run: Path, tmp_path: Path
) -> None:
    publish_changed(hub, run, OUTSIDE[place](path))
    answer = cycleqd_merge("pull", ARCHIVE, tmp_path / "there")
    assert answer.code == 2
    assert answer.err.startswith(f"error: dataset {ARCHIVE}: refused: ")
    assert answer.err.endswith(f": {path} is outside the run's folder\n")
    assert not (tmp_path / "there").exists()


def test_a_published_run_loads_no_task_file(
    hub: LocalHub, run: Path, original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`push` writes task definitions into the recipe, so that a file's name can only mean a file of this machine."""
    monkeypatch.chdir(original.parent)
    for name in (str(original.parent / "vowels.yaml"), "vowels.yaml", "../tasks/secret.yaml", "unknown"):
        publish_changed(hub, run, lambda recipe, name=name: recipe["tasks"][0].update(task=name))
        answer = cycleqd_merge("pull", ARCHIVE, tmp_path / "there")
        reason = f"refused: task {name!r}: neither defined in its recipe nor a shipped task"
        assert (answer.code, answer.err) == (2, f"error: dataset {ARCHIVE}: {reason}\n")
        hub.repos.clear()
        (run / "hub.json").unlink()
    publish_changed(hub, run, lambda recipe: recipe["tasks"][0].update(task="mbpp-plus"))
    assert "neither defined in its recipe" not in cycleqd_merge("pull", ARCHIVE, tmp_path / "there").err


def test_a_published_run_decides_nothing_about_this_machine(hub: LocalHub, run: Path, tmp_path: Path) -> None:
    own = {"ray_address": "ray://elsewhere:10001", "workers": 8, "hub": {"repo": "ann/public"}, "output": "/tmp/other"}
    publish_changed(hub, run, lambda recipe: recipe.update(own))
    assert cycleqd_merge("pull", ARCHIVE, tmp_path / "there").code == 0
    recipe = open_run(tmp_path / "there").recipe
    assert (recipe.ray_address, recipe.workers, recipe.hub) == (None, 1, None)
    assert recipe.output == str(tmp_path / "there")


def test_a_chat_template_file_is_published_with_the_run(hub: LocalHub, parents: Parents, tmp_path: Path) -> None:
    put_parents(hub, parents)
    (tmp_path / "mine.jinja").write_text("{{ messages }}")
    recipe = write_recipe(tmp_path, "lab/base", EXPERTS, models={"chat_template": "mine.jinja"})
    assert cycleqd_merge("evolve", recipe, "--generations", 1).code == 0
    pushed(tmp_path / "run", "--repo", MODEL, "--archive-only", "--rows")
    assert cycleqd_merge("pull", ARCHIVE, tmp_path / "there").code == 0
    (tmp_path / "mine.jinja").unlink()
    assert cycleqd_merge("evolve", tmp_path / "there", "--generations", 2).code == 0
    assert (tmp_path / "there" / "chat_template.jinja").read_text() == "{{ messages }}"


def test_other_repositories_are_refused(hub: LocalHub, run: Path, tmp_path: Path) -> None:
    hub.put("ann/rows", {"train.jsonl": b"{}"}, "dataset")
    for repo, reason in (("ann/rows", "not a published run"), ("ann/none", "not on the Hub")):
        answer = cycleqd_merge("pull", repo, tmp_path / "there")
        assert (answer.code, reason in answer.err) == (2, True)
    events = b'{"event":"start","format":1}\n{"event":"session","recipe":["x"]}\n'
    hub.put("ann/rows", {JOURNAL_FILE: events}, "dataset")
    answer = cycleqd_merge("pull", "ann/rows", tmp_path / "there")
    assert (answer.code, "its journal.jsonl was not written by `push`" in answer.err) == (2, True)
    answer = cycleqd_merge("pull", "ann/rows", run)
    assert "already exists" in answer.err


def test_a_tag_restores_an_earlier_state(hub: LocalHub, run: Path, longer: Path, tmp_path: Path) -> None:
    pushed(run, "--repo", MODEL, "--archive-only")
    shutil.copy(longer / JOURNAL_FILE, run / JOURNAL_FILE)
    pushed(run, "--repo", MODEL, "--archive-only")
    for revision, generation in (("gen-4", 4), ("main", 5)):
        out = tmp_path / revision
        assert cycleqd_merge("pull", ARCHIVE, out, "--revision", revision).code == 0
        assert open_run(out).generation == generation


def test_two_runs_are_united(hub: LocalHub, parents: Parents, tmp_path: Path) -> None:
    put_parents(hub, parents)
    for name, seed in (("one", 1), ("two", 2)):
        evolution = {"generations": 6, "in_flight": 2, "bins": 10, "seed": seed, "mutation": {"w_max": 2.0}}
        recipe = write_recipe(tmp_path / name, "lab/base", EXPERTS, evolution=evolution)
        assert cycleqd_merge("evolve", recipe).code == 0
        pushed(tmp_path / name / "run", "--repo", f"ann/{name}", "--archive-only", "--rows")
    both = tmp_path / "both"
    answer = cycleqd_merge("pull", "ann/one-archive", both, "--merge", "ann/two-archive")
    assert (answer.code, answer.err) == (0, "")
    united, parts = open_run(both), [open_run(tmp_path / name / "run") for name in ("one", "two")]
    for place, archive in enumerate(united.archives):
        best: dict[tuple[int, ...], float] = {}
        for part in parts:
            for elite in part.archives[place].elites():
                best[elite.cell] = max(best.get(elite.cell, 0.0), elite.scores[place])
        assert {elite.cell: elite.scores[place] for elite in archive.elites()} == best
    assert all(list(united.outcomes(number)) == united.tasks for number in range(len(united.results)))
    assert sum(bool(united.outcomes(number, "confirm")) for number in united.confirmed) == len(united.confirmed)
    answer = cycleqd_merge("evolve", both, "--generations", 2)
    assert answer.code == 0, answer.err
    assert open_run(both).generation == 2
    again = tmp_path / "again"
    local = str(tmp_path / "two" / "run")
    assert (
        cycleqd_merge("pull", "ann/one-archive", again, "--merge", local, "--set", "evolution.generations=0").code == 0
    )
    assert read_events(again)[2:] == read_events(both)[2 : len(read_events(again))]


def test_runs_over_other_experts_are_not_united(hub: LocalHub, parents: Parents, run: Path, tmp_path: Path) -> None:
    put_parents(hub, parents)
    experts = {"tuned": "lab/tuned", "adapted": "lab/base+lab/second"}
    other = write_recipe(tmp_path / "other", "lab/base", experts)
    assert cycleqd_merge("evolve", other, "--generations", 0).code == 0
    pushed(run, "--repo", MODEL, "--archive-only")
    answer = cycleqd_merge("pull", ARCHIVE, tmp_path / "both", "--merge", tmp_path / "other" / "run")
    assert answer.code == 2
    assert "cannot be united; differences:" in answer.err
    assert "experts.adapted" in answer.err


REVERSED: dict[str, Callable[[Any], Any]] = {
    "experts": lambda value: dict(reversed(value.items())),
    "tasks": lambda value: value[::-1],
}
ORDERS = {"experts": "tuned, adapted -> adapted, tuned", "tasks": "vowels, letters -> letters, vowels"}


@pytest.mark.parametrize("key", REVERSED)
def test_a_published_run_is_pulled_and_united_in_its_order(
    key: str, hub: LocalHub, parents: Parents, run: Path, tmp_path: Path
) -> None:
    pushed(run, "--repo", MODEL, "--archive-only")
    start, session, *_ = [json.loads(line) for line in hub.read(ARCHIVE, JOURNAL_FILE, "dataset").splitlines()]
    answer = cycleqd_merge(
        "pull", ARCHIVE, tmp_path / "pulled", "--set", f"{key}={json.dumps(REVERSED[key](session['recipe'][key]))}"
    )
    assert answer.code == 2
    assert f"{tmp_path / 'pulled'}: order of {key}: {ORDERS[key]}" in answer.err
    assert not (tmp_path / "pulled").exists()
    other = tmp_path / "other"
    other.mkdir()
    start[key] = dict(reversed(start[key].items()))
    session["recipe"][key] = REVERSED[key](session["recipe"][key])
    (other / JOURNAL_FILE).write_text("".join(json.dumps(event) + "\n" for event in (start, session)))
    answer = cycleqd_merge("pull", ARCHIVE, tmp_path / "both", "--merge", other)
    assert answer.code == 2
    assert "cannot be united; differences:" in answer.err
    assert f"order of {key}: {ORDERS[key]}\n" in answer.err


@pytest.mark.parametrize("key", REVERSED)
def test_a_run_in_another_order_does_not_continue_a_published_one(key: str, run: Path) -> None:
    events = read_events(run)
    assert continues(events, (run / JOURNAL_FILE).read_bytes())
    start = {**events[0], key: dict(reversed(events[0][key].items()))}
    assert not continues([start, *events[1:]], (run / JOURNAL_FILE).read_bytes())
