"""Semantics versions: a run is never extended with scores that are not comparable with its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cycleqd_merge.config.recipe import TaskConfig
from cycleqd_merge.errors import UserError
from cycleqd_merge.evaluation.engines.engine import SEMANTICS
from cycleqd_merge.hub.archive import portable_events
from cycleqd_merge.hub.portable import portable_recipe
from cycleqd_merge.hub.unite import unite
from cycleqd_merge.journal.log import JOURNAL_FILE, of_kind, read_events
from cycleqd_merge.run.state import open_run
from cycleqd_merge.tasks.generate import GenerateTask
from cycleqd_merge.tasks.suite import open_task
from tests.cli.conftest import CliRun, Models, cycleqd_merge, write_recipe
from tests.journal.unsealed import unsealed

TASK = GenerateTask.semantics
TASKS = f"semantics of task vowels: {TASK} -> {TASK + 1}, semantics of task letters: {TASK} -> {TASK + 1}"
VERSION = SEMANTICS["transformers"]
ENGINE = f"semantics of engine transformers: {VERSION} -> {VERSION + 1}"


@pytest.fixture
def run(finished: CliRun, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(finished.folder, tmp_path / "run", ignore=shutil.ignore_patterns("lock")))


@pytest.fixture(params=["task", "engine", "both"])
def changed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Raises the current version of the tasks, of the engine, or of both; gives the change as messages state it."""
    if request.param != "engine":
        monkeypatch.setattr(GenerateTask, "semantics", TASK + 1)
    if request.param != "task":
        monkeypatch.setitem(SEMANTICS, "transformers", VERSION + 1)
    return {"task": TASKS, "engine": ENGINE, "both": f"{TASKS}, {ENGINE}"}[request.param]


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    """This package's warnings so far."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("cycleqd_merge")]


def refusal(run: Path, changed: str) -> str:
    return (
        f"{run}: cannot be extended: new scores would not be comparable ({changed}); start a new run from its elites "
        f"with: cycleqd-merge fork {run} NEW --rescore"
    )


def test_version_0_is_not_written(models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GenerateTask, "semantics", 0)
    assert cycleqd_merge("evolve", write_recipe(tmp_path, models), "--generations", 1).code == 0
    assert '"semantics"' not in (tmp_path / "run" / JOURNAL_FILE).read_text()


def test_a_run_of_another_version_can_be_read(
    run: Path, finished: CliRun, changed: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = (run / JOURNAL_FILE).read_bytes()
    shown = cycleqd_merge("show", run, "--json")
    assert (shown.code, shown.err) == (0, "")
    assert shown.json == cycleqd_merge("show", finished.folder, "--json").json
    assert cycleqd_merge("export", run, "best-mean", tmp_path / "model").code == 0
    answer = cycleqd_merge("evaluate", run, "best-mean", "--json")
    assert answer.code == 0
    assert list(answer.json) == ["best-mean"]
    assert warned(caplog) == [f"these scores are not recorded: they are not comparable with the run's ({changed})"]
    assert (run / JOURNAL_FILE).read_bytes() == before


def test_extending_it_is_refused_in_one_line(run: Path, changed: str) -> None:
    lines = unsealed((run / JOURNAL_FILE).read_text()).encode().splitlines(keepends=True)
    unconfirmed = b"".join(line for line in lines if b'"event":"confirm"' not in line)
    for arguments, journal in ((("evolve", "--generations", 6), b"".join(lines)), (("confirm",), unconfirmed)):
        (run / JOURNAL_FILE).write_bytes(journal)
        command, *options = arguments
        answer = cycleqd_merge(command, run, *options)
        assert (answer.code, answer.err) == (2, f"error: {refusal(run, changed)}\n")
        assert (run / JOURNAL_FILE).read_bytes() == journal
    answer = cycleqd_merge("plan", run, "--no-measure", "--json")
    assert (answer.code, answer.json["errors"]) == (2, [refusal(run, changed)])


def test_a_finished_run_is_not_refused_and_stays_as_it_is(
    run: Path, changed: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = (run / JOURNAL_FILE).read_bytes()
    finish = f"finish={json.dumps({'export': ['best-mean'], 'heldout': True})}"
    answer = cycleqd_merge("evolve", run, "--set", finish)
    assert answer.code == 0
    assert warned(caplog) == [f"these scores are not recorded: they are not comparable with the run's ({changed})"]
    assert (run / "models" / "best-mean-gen-4" / "model.safetensors").is_file()
    assert cycleqd_merge("confirm", run).code == 0
    assert cycleqd_merge("plan", run, "--no-measure").code == 0
    assert (run / JOURNAL_FILE).read_bytes() == before


def test_what_tasks_run_on_is_recorded_and_published(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GenerateTask, "environment", lambda self: "a sandbox, version 3", raising=False)
    recipe = write_recipe(tmp_path, models)
    assert cycleqd_merge("evolve", recipe, "--generations", 1).code == 0
    events = read_events(tmp_path / "run")
    expected = {"vowels": "a sandbox, version 3", "letters": "a sandbox, version 3"}
    assert [session["task_environments"] for session in of_kind(events, "session")] == [expected]
    published = portable_events(events, portable_recipe(open_run(tmp_path / "run").recipe))
    assert published[1]["task_environments"] == expected


def test_versions_are_recorded_and_an_older_program_extends_no_newer_run(models: Models, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, models)
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as newer:
        newer.setattr(GenerateTask, "semantics", TASK + 2)
        newer.setitem(SEMANTICS, "transformers", VERSION + 1)
        assert cycleqd_merge("evolve", recipe, "--generations", 1).code == 0
        assert cycleqd_merge("evolve", recipe, "--generations", 2).code == 0
    start, *_ = events = read_events(run)
    assert [task["semantics"] for task in start["tasks"].values()] == [TASK + 2] * 2
    assert [session["engine_semantics"] for session in of_kind(events, "session")] == [VERSION + 1] * 2
    assert cycleqd_merge("show", run).code == 0
    assert (
        portable_events(events, portable_recipe(open_run(run).recipe))[1]["engine_semantics"] == VERSION + 1
    )  # as others pull it
    answer = cycleqd_merge("evolve", recipe)
    older = (
        f"semantics of task vowels: {TASK + 2} -> {TASK}, semantics of task letters: {TASK + 2} -> {TASK}, "
        f"semantics of engine transformers: {VERSION + 1} -> {VERSION}"
    )
    assert (answer.code, answer.err) == (2, f"error: {refusal(run, older)}\n")


def test_a_fork_keeps_only_scores_that_compare(
    run: Path, changed: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    answer = cycleqd_merge("fork", run, tmp_path / "fork", "--set", "evolution.generations=0")
    assert answer.code == 0
    if "engine" in changed:
        assert warned(caplog) == [f"{ENGINE}: no scores are kept; every elite is scored again"]
    else:
        every = changed.split(", ")
        assert warned(caplog) == [
            f"{each}: its scores are not kept; every elite is scored on it again" for each in every
        ]
    start, *_ = events = read_events(tmp_path / "fork")
    assert start["seeds"]
    assert all(founder["scores"] == {} for founder in start["seeds"])
    assert [task.get("semantics", 0) for task in start["tasks"].values()] == [TASK + int("task" in changed)] * 2
    recorded = [each["engine_semantics"] for each in of_kind(events, "session")]
    assert recorded == [VERSION + int("engine" in changed)]
    answer = cycleqd_merge("evolve", tmp_path / "fork", "--generations", 1)
    assert (answer.code, answer.err) == (0, "")


def test_rescore_keeps_no_scores(run: Path, tmp_path: Path) -> None:
    answer = cycleqd_merge("fork", run, tmp_path / "fork", "--rescore", "--set", "evolution.generations=0")
    assert (answer.code, answer.err) == (0, "")
    events = read_events(tmp_path / "fork")
    founders = events[0]["seeds"]
    assert founders
    assert all(founder["scores"] == {} for founder in founders)
    before = {event["number"]: event["scores"] for event in of_kind(read_events(run), "result")}
    after = [event["scores"] for event in of_kind(events, "result")[2:]]
    assert after == [before[founder["from"]] for founder in founders]


def test_runs_of_two_versions_are_not_united(run: Path, models: Models, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as newer:
        newer.setattr(GenerateTask, "semantics", TASK + 1)
        newer.setitem(SEMANTICS, "transformers", VERSION + 1)
        assert cycleqd_merge("fork", run, tmp_path / "fork", "--rescore", "--set", "evolution.generations=0").code == 0
    ours, theirs = read_events(run), read_events(tmp_path / "fork")
    assert unite([("ours", ours), ("again", ours)])
    with pytest.raises(UserError, match="cannot be united") as refused:
        unite([("ours", ours), ("theirs", theirs)])
    assert str(refused.value).splitlines()[1:] == [
        f"  tasks.vowels.semantics: {TASK} -> {TASK + 1}",
        f"  tasks.letters.semantics: {TASK} -> {TASK + 1}",
        f"  engine.transformers.semantics: {VERSION} -> {VERSION + 1}",
    ]


def test_a_task_in_python_states_its_own_version(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from cycleqd_merge.tasks.protocol import Sample\n"
        "class Mine:\n"
        "    semantics = 3\n"
        "    def samples(self, split): return [Sample('a', {}), Sample('b', {})]\n"
        "    async def score(self, sample, model): ...\n"
    )
    use = TaskConfig.model_validate({"name": "mine", "task": {"kind": "python", "target": f"{tmp_path}/mine.py:Mine"}})
    assert open_task(use, 0.0).semantics == 3
