"""`evolve`: runs of tiny real models start, end early, resume, and stop with a reason."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cycleqd_merge.config.loading import load_recipe
from cycleqd_merge.errors import Interrupted
from cycleqd_merge.journal.log import JOURNAL_FILE, Event, of_kind, opened_journal, read_events
from cycleqd_merge.run.observer import Observer
from cycleqd_merge.session.evolve import evolve
from tests.cli.conftest import CliRun, Models, cycleqd_merge, write_recipe, write_task
from tests.run.synthetic import history


def test_a_run_reports_each_evaluation_and_ends_well(finished: CliRun) -> None:
    assert (finished.answer.code, finished.answer.err) == (0, "")
    lines = finished.answer.out.splitlines()
    done = [line for line in lines if line.startswith(("expert ", "generation "))]
    assert [line.split(":")[0] for line in done] == [
        "expert first",
        "expert second",
        "generation 1/4 (letters)",
        "generation 2/4 (vowels)",
        "generation 3/4 (letters)",
        "generation 4/4 (vowels)",
    ]
    results = of_kind(read_events(finished.folder), "result")
    for line, event in zip(done, results, strict=True):
        assert f"vowels {event['scores'][0]:.3f} letters {event['scores'][1]:.3f}" in line


@pytest.mark.parametrize("method", ["started", "searched", "measured"])
def test_ctrl_c_in_an_observer_is_an_interruption_at_any_time(finished: CliRun, tmp_path: Path, method: str) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    observer = Observer()
    setattr(observer, method, interrupt)
    shutil.copytree(finished.folder, tmp_path / "run")
    overrides = [f"output={tmp_path / 'run'}", "finish.heldout=true"]
    with pytest.raises(Interrupted):
        evolve(finished.recipe, observer, overrides=overrides)
    assert evolve(finished.recipe, overrides=overrides).schedule.done


def test_scores_of_a_run_are_shares_of_its_samples_and_differ(finished: CliRun) -> None:
    scores = [score for event in of_kind(read_events(finished.folder), "result") for score in event["scores"]]
    assert all((score * 16).is_integer() for score in scores)
    assert len(set(scores)) > 2


def test_a_run_is_the_same_when_it_is_run_again_elsewhere(finished: CliRun, models: Models, tmp_path: Path) -> None:
    """Shorter at first and then extended: the same journal as the run in one go."""
    recipe = write_recipe(tmp_path, models)
    assert cycleqd_merge("evolve", recipe, "--generations", 1).code == 0
    answer = cycleqd_merge("evolve", recipe, "--set", "engine.batch_size=64")
    assert answer.code == 0
    assert "resuming after generation 1" in answer.out
    assert "generation 1/4" not in answer.out
    assert searched(tmp_path / "run") == searched(finished.folder)


def searched(folder: Path) -> list[Event]:
    """The history of a search without what is scored after it: its elites confirmed, models measured."""
    return [event for event in history(folder) if event["event"] not in ("confirm", "measured")]


@pytest.mark.parametrize("named_by", ["recipe", "folder"])
def test_a_finished_run_has_nothing_left_to_do(finished: CliRun, named_by: str) -> None:
    before = history(finished.folder)
    answer = cycleqd_merge("evolve", getattr(finished, named_by))
    assert answer.code == 0
    assert "resuming after generation 4" in answer.out
    assert history(finished.folder) == before


def test_a_run_resumes_from_its_directory_alone(models: Models, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, models)
    assert cycleqd_merge("evolve", recipe, "--generations", 1).code == 0
    recipe.unlink()
    (tmp_path / "run").rename(tmp_path / "moved")
    answer = cycleqd_merge("evolve", tmp_path / "moved", "--generations", 3)
    assert (answer.code, answer.err) == (0, "")
    assert len(of_kind(read_events(tmp_path / "moved"), "result")) == 5
    assert not (tmp_path / "run").exists()


def test_a_run_of_a_different_identity_is_refused_and_fresh_starts_a_new_one(models: Models, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, models, evolution={"generations": 0, "in_flight": 2})
    assert cycleqd_merge("evolve", recipe).code == 0
    other = ("evolve", recipe, "--set", "evolution.seed=5", "--set", "evolution.in_flight=3")
    answer = cycleqd_merge(*other)
    assert answer.code == 2
    assert answer.err.splitlines() == [
        f"error: {tmp_path / 'run'}: contains a different run; --fresh starts a new one next to it. Differences:",
        "error:   evolution.seed: 0 -> 5",
        "error:   in_flight: 2 -> 3",
    ]
    assert cycleqd_merge(*other, "--fresh").code == 0
    assert [read_events(tmp_path / name)[0]["evolution"]["seed"] for name in ("run", "run-2")] == [0, 5]


def test_changed_rows_make_a_different_run(models: Models, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, models, evolution={"generations": 0, "in_flight": 2})
    assert cycleqd_merge("evolve", recipe).code == 0
    rows = tmp_path / "vowels-heldout.jsonl"
    rows.write_text("".join(rows.read_text().splitlines(keepends=True)[1:]))
    answer = cycleqd_merge("evolve", recipe)
    assert answer.code == 2
    assert "tasks.vowels.heldout: " in answer.err
    assert "tasks.vowels.search: " not in answer.err


def test_a_task_on_which_all_experts_fail_stops_a_run_with_the_reason(models: Models, tmp_path: Path) -> None:
    impossible = write_task(tmp_path, "impossible", kind="regex")
    for rows in tmp_path.glob("impossible-*.jsonl"):
        rows.write_text('{"question": "who", "answer": "never this"}\n{"question": "what", "answer": "nor this"}\n')
    tasks = [{"task": impossible.name, "name": name, "expert": name} for name in ("first", "second")]
    answer = cycleqd_merge("evolve", write_recipe(tmp_path, models, tasks=tasks))
    assert answer.code == 1
    assert answer.err.startswith("error: task first: its experts' scores, 0 to 0, leave no range to divide into cells")
    assert "`bounds`" in answer.err
    assert len(answer.err.splitlines()) == 1


def test_a_run_that_another_process_works_on_is_left_alone(finished: CliRun) -> None:
    before = (finished.folder / JOURNAL_FILE).read_bytes()
    with opened_journal(finished.folder):
        answer = cycleqd_merge("evolve", finished.recipe)
    assert (answer.code, answer.err) == (
        2,
        f"error: {finished.folder}: another process is using this run; wait until it ends\n",
    )
    assert (finished.folder / JOURNAL_FILE).read_bytes() == before


@contextmanager
def signalled(path: Path, lines: int, sign: signal.Signals) -> Iterator[None]:
    """Send this process a signal once a file has this many lines."""

    def watch() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if path.exists() and path.read_bytes().count(b"\n") >= lines:
                os.kill(os.getpid(), sign)
                return
            time.sleep(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    yield
    watcher.join()


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_asked_to_end_says_how_to_resume_it(models: Models, tmp_path: Path, sign: signal.Signals) -> None:
    recipe = write_recipe(tmp_path, models)
    with signalled(tmp_path / "run" / JOURNAL_FILE, 6, sign):
        answer = cycleqd_merge("evolve", recipe, "--generations", 500)
    assert answer.code == 130
    assert answer.err == f"interrupted; resume with: cycleqd-merge evolve {recipe} --generations 500\n"
    done = len(of_kind(read_events(tmp_path / "run"), "result"))
    assert 3 <= done < 500
    answer = cycleqd_merge("evolve", recipe, "--generations", done)
    assert answer.code == 0
    assert f"resuming after generation {done - 2}" in answer.out
    assert len(of_kind(read_events(tmp_path / "run"), "result")) == done + 2


def test_the_process_itself_ends_and_its_run_can_be_resumed(finished: CliRun, models: Models, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, models)
    code = "from cycleqd_merge.cli import main; main()"
    command = [sys.executable, "-c", code, "evolve", str(recipe), "--generations", "500"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        journal = tmp_path / "run" / JOURNAL_FILE
        while not journal.exists() or journal.read_bytes().count(b"\n") < 5:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert err.endswith(f"resume with: cycleqd-merge evolve {recipe} --generations 500\n")
    whole, ended = searched(finished.folder), searched(tmp_path / "run")
    common = min(len(whole), len(ended))
    assert ended[:common] == whole[:common]


def test_the_time_limit_ends_a_run(models: Models, tmp_path: Path) -> None:
    answer = cycleqd_merge("evolve", write_recipe(tmp_path, models), "--max-hours", "0")
    assert answer.code == 130
    assert answer.err.startswith("time limit reached; resume with: cycleqd-merge evolve")
    assert of_kind(read_events(tmp_path / "run"), "result") == []


def test_what_a_recipe_wants_done_at_the_end_is_done_once(models: Models, tmp_path: Path) -> None:
    finish = {"export": ["best-mean", "best:vowels"], "heldout": True}
    recipe = write_recipe(tmp_path, models, finish=finish, evolution={"generations": 1, "in_flight": 2})
    answer = cycleqd_merge("evolve", recipe)
    assert answer.code == 0
    assert "Scores on the held-out split" in answer.out
    written = {folder.name: (folder / "model.safetensors").stat() for folder in (tmp_path / "run" / "models").iterdir()}
    assert set(written) == {"best-mean-gen-1", "best-vowels-gen-1"}
    measured = of_kind(read_events(tmp_path / "run"), "measured")
    assert [event["name"] for event in measured][:3] == ["base", "expert:first", "expert:second"]
    again = cycleqd_merge("evolve", recipe)
    assert again.code == 0
    assert of_kind(read_events(tmp_path / "run"), "measured") == measured
    table = "Scores on the held-out split"
    assert again.out[again.out.index(table) :] == answer.out[answer.out.index(table) :]
    for name, before in written.items():
        assert (tmp_path / "run" / "models" / name / "model.safetensors").stat().st_mtime_ns == before.st_mtime_ns


class EndsAtBases(Observer):
    """Sends this process SIGTERM once singular bases are being computed."""

    def computing_bases(self, expert: str, done: int, total: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_while_a_run_is_being_prepared_ends_it_too(models: Models, tmp_path: Path) -> None:
    """Preparing takes minutes with large models: singular bases are computed before the first evaluation."""
    recipe = load_recipe(write_recipe(tmp_path, models))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CYCLEQD_CACHE", str(tmp_path / "cache"))
        with pytest.raises(Interrupted):
            evolve(recipe, EndsAtBases())
    assert of_kind(read_events(tmp_path / "run"), "result") == []
    assert cycleqd_merge("evolve", tmp_path / "recipe.yaml", "--generations", 0).code == 0
