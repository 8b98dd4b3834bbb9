"""`hub.every`: the archive is pushed during the run, and this does not stop, slow down or change the run."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from cycleqd_merge.config.loading import load_recipe
from cycleqd_merge.hub import periodic_push
from cycleqd_merge.journal.log import Event
from cycleqd_merge.run.observer import Observer
from cycleqd_merge.run.state import Run, open_run
from cycleqd_merge.session.evolve import evolve
from tests.cli.conftest import cycleqd_merge
from tests.hub.conftest import TOKEN, Parents, write_recipe
from tests.hub.server import LocalHub
from tests.journal.unsealed import unsealed
from tests.run.synthetic import history

ARCHIVE = "ann/run-archive"


def recipe(folder: Path, parents: Parents, **hub: object) -> Path:
    """A recipe over local models with these `hub` settings."""
    experts = {"tuned": str(parents.tuned), "adapted": f"{parents.base}+{parents.first}"}
    return write_recipe(folder, str(parents.base), experts, **({"hub": {"repo": "ann/run", **hub}} if hub else {}))


def test_the_archive_is_pushed_during_the_run_and_all_at_its_end(
    hub: LocalHub, parents: Parents, tmp_path: Path
) -> None:
    path = recipe(tmp_path, parents, every=2)

    class Waits(Observer):
        """Delays generation 3 until the push of generation 2 is complete."""

        def evaluated(self, state: Run, event: Event) -> None:
            deadline = time.monotonic() + 120
            while state.generation == 3 and not tags() and time.monotonic() < deadline:
                time.sleep(0.05)

    def tags() -> set[str]:
        repo = hub.repos.get(("dataset", ARCHIVE))
        return set() if repo is None else set(repo.tags)

    evolve(load_recipe(path), Waits())
    during = tags()
    assert during & {"gen-2", "gen-3"}
    assert during <= {"gen-2", "gen-3", "gen-4"}  # the last only if the push of the one before was done by then
    assert cycleqd_merge("evolve", path).code == 0
    assert tags() == during | {"gen-4"}
    assert set(hub.repo("ann/run").tags) == {"gen-4"}


def test_a_failed_push_is_reported_and_does_not_change_the_run(
    hub: LocalHub, parents: Parents, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = recipe(tmp_path / "plain", parents)
    assert cycleqd_merge("evolve", plain).code == 0
    hub.faults.add("commit", 500)
    answer = cycleqd_merge("evolve", recipe(tmp_path / "pushing", parents, every=1))
    assert answer.code == 1
    assert "the run is complete, but not everything was pushed: dataset ann/run-archive: the Hub failed" in answer.err
    assert "push again with: cycleqd-merge push" in answer.err
    assert "pushing the archive failed and will be retried: dataset ann/run-archive: the Hub failed" in caplog.text
    assert history(tmp_path / "pushing" / "run") == history(tmp_path / "plain" / "run")
    hub.faults.clear()
    assert cycleqd_merge("push", tmp_path / "pushing" / "run").code == 0
    assert "gen-4" in hub.repo(ARCHIVE, "dataset").tags


class AtGeneration:
    """The attributes of a run that the observer reads."""

    archives = (1,)

    def __init__(self, generation: int) -> None:
        self.generation = generation


def test_a_failed_push_is_retried_later(
    hub: LocalHub, run: Path, longer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The observer alone, so that the time between two tries does not depend on how fast a run is."""
    assert cycleqd_merge("evolve", run, "--set", "hub={repo: ann/run, root: null}").code == 0
    (run / "hub.json").unlink()
    hub.repos.clear()
    hub.requests.clear()
    hub.faults.add("commit", 500)
    pushes = periodic_push.PeriodicPush(run, every=2, first_wait=0.2)
    pushes.evaluated(AtGeneration(2), {})  # type: ignore[arg-type]
    pushes.close()
    assert hub.steps().count("commit") == 1
    pushes.evaluated(AtGeneration(3), {})  # type: ignore[arg-type]
    assert hub.steps().count("commit") == 1  # too early
    hub.faults.clear()
    time.sleep(0.3)
    pushes.evaluated(AtGeneration(3), {})  # type: ignore[arg-type]
    pushes.close()
    assert hub.repo(ARCHIVE, "dataset").tags.keys() == {"gen-4"}
    pushes.evaluated(AtGeneration(5), {})  # type: ignore[arg-type]
    pushes.close()
    assert hub.steps().count("commit") == 2  # not due


def test_a_hub_that_hangs_does_not_slow_the_run(hub: LocalHub, run: Path) -> None:
    """`evaluated` returns at once however long the Hub takes, because the push runs in a separate process."""
    assert cycleqd_merge("evolve", run, "--set", "hub={repo: ann/run, root: null}").code == 0
    hub.__exit__(None, None, None)  # connections are refused from here on
    pushing = periodic_push.PeriodicPush(run, every=1)
    for generation in range(1, 50):
        pushing.evaluated(AtGeneration(generation), {})  # type: ignore[arg-type]
    process = pushing._process
    assert process is not None
    assert process.poll() is None  # it was still starting when the run had done 49 more generations
    process.kill()
    pushing.close()


def test_the_token_appears_nowhere(
    hub: LocalHub, parents: Parents, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    seen: list[bytes] = []
    original = subprocess.Popen

    def watched(*arguments: object, **options: object) -> object:
        process = original(*arguments, **options)  # type: ignore[call-overload]
        time.sleep(0.1)
        seen.append(Path(f"/proc/{process.pid}/cmdline").read_bytes())
        return process

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", watched)
        ended = [cycleqd_merge("evolve", recipe(tmp_path, parents, every=2))]
    hub.faults.add("commit", 500)
    ended.append(cycleqd_merge("evolve", tmp_path / "run", "--generations", 5))
    ended.append(cycleqd_merge("--debug", "push", tmp_path / "run"))
    assert [each.code for each in ended] == [0, 1, 1]
    assert "Traceback" in ended[-1].err
    assert seen
    said = "".join(each.out + each.err for each in ended) + "".join(capfd.readouterr()) + caplog.text
    assert TOKEN not in said
    assert not [line for line in seen if TOKEN.encode() in line]
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path
    for kind, name in hub.repos:
        for file in hub.repo(name, kind).tree():
            assert TOKEN.encode() not in hub.read(name, file, kind)


def test_a_recipe_that_contains_the_token_is_not_published(hub: LocalHub, parents: Parents, tmp_path: Path) -> None:
    path = recipe(tmp_path, parents)
    path.write_text(path.read_text().replace('"output"', '"strategy": {"kind": "cycleqd"}, "output"'))
    assert cycleqd_merge("evolve", path, "--generations", 0).code == 0
    journal = tmp_path / "run" / "journal.jsonl"
    journal.write_text(unsealed(journal.read_text()).replace('"prompt":"{{ question }}: "', f'"prompt":"{TOKEN}"'))
    task = tmp_path / "vowels.yaml"
    task.write_text(task.read_text().replace("{{ question }}", f"{{{{ question }}}} {TOKEN}"))
    answer = cycleqd_merge("push", tmp_path / "run", "--repo", "ann/run", "--archive-only")
    assert answer.code == 2
    assert "contains your token and was not pushed" in answer.err
    assert TOKEN not in answer.err
    assert not hub.repos
    assert open_run(tmp_path / "run").generation == 0
