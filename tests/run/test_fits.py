"""Whole runs with fits on tiny models: what they record, and that a run killed at any point resumes as it was."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cycleqd_merge.errors import ModelError
from cycleqd_merge.evolution.genome import Genome, fit_genome
from cycleqd_merge.fitting.examples import examples_from_bytes
from cycleqd_merge.journal.log import JOURNAL_FILE, Event, Journal, journal_bytes, of_kind, read_events
from cycleqd_merge.merging.fits import Fit, fit_digest
from cycleqd_merge.preflight.plan import plan
from cycleqd_merge.report.plan import plan_report
from cycleqd_merge.run.learn import examples_path
from cycleqd_merge.run.observer import Observer
from cycleqd_merge.run.opening import reopen_models
from cycleqd_merge.run.state import Run, open_run
from cycleqd_merge.session.evolve import evolve
from cycleqd_merge.session.fork import fork
from tests.models import make_base, make_expert, make_recipe

FIT = {"steps": 4, "spread_steps": 2, "rows": 3}
FILES = "fits"


class Fits(Observer):
    """Records which fits were learned, and which evaluations were recorded."""

    def __init__(self) -> None:
        self.learned: list[int] = []
        self.evaluated_numbers: list[int] = []

    def fitted(self, run: Run, event: Event) -> None:
        self.learned.append(event["number"])

    def evaluated(self, run: Run, event: Event) -> None:
        self.evaluated_numbers.append(event["number"])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    base = make_base(folder / "base")
    for seed, name in enumerate("xy", start=1):
        make_expert(base, folder / name, seed, scale=0.05)
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache without fits, so that those of a run must come from its directory; bases are shared."""
    own = tmp_path / "cache"
    shutil.copytree(cache, own, ignore=shutil.ignore_patterns("fits", "rootfs"), symlinks=True)
    monkeypatch.setenv("CYCLEQD_CACHE", str(own))
    return own


def stated(models: Path, folder: Path, generations: int = 3, **settings: Any) -> Any:
    evolution = {"generations": generations, "in_flight": 1, **settings.pop("evolution", {})}
    experts = {name: models / name for name in "xy"}
    return make_recipe(folder, models / "base", experts, **{"fit": FIT, "evolution": evolution, **settings})


@pytest.fixture(scope="module")
def whole(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a complete run."""
    folder = tmp_path_factory.mktemp("whole")
    evolve(stated(models, folder))
    return folder / "run"


def results(folder: Path) -> list[Event]:
    """A run's record without sessions and times."""
    timed = ("seconds", "released_mib", "time")
    events = (event for event in read_events(folder) if event["event"] != "session")
    return [{key: value for key, value in event.items() if key not in timed} for event in events]


def test_a_run_learns_fits_and_searches_on_from_them(whole: Path) -> None:
    events = read_events(whole)
    kinds = [event["event"] for event in events if event["event"] != "session"]
    assert kinds[:11] == ["start", *["result"] * 2, *["fit"] * 3, *["result"] * 3, "bounds", "result"]
    learned = of_kind(events, "fit")
    assert [event["weights"] for event in learned] == [
        {"letters": 1.0, "digits": 1.0},
        {"letters": 2.0, "digits": 1.0},
        {"letters": 1.0, "digits": 2.0},
    ]
    assert [event["steps"] for event in learned] == [4, 2, 2]
    assert [event["start"] for event in learned] == [None, learned[0]["digest"], learned[0]["digest"]]
    assert all(event["tokens"] > 0 and event["seconds"]["train"] > 0 for event in learned)
    assert {"release", "restore"} <= {part for event in learned for part in event["seconds"]}

    run = open_run(whole)
    for number, event in enumerate(learned):
        content = (whole / FILES / f"{event['digest']}.safetensors").read_bytes()
        assert fit_digest(content) == event["digest"]
        assert Fit.from_bytes(content).coefficients.shape[0] == 2
        assert run.search.genome(2 + number) == fit_genome(event["digest"], 2, 1)
    for task, expert in (("letters", 0), ("digits", 1)):
        answers = examples_from_bytes(examples_path(whole, task).read_bytes())
        assert len(answers) >= learned[0]["examples"][task] > 0
        assert run.teacher(task) == expert
    assert run.generation == 3


def cut(whole: Path, folder: Path, keep: int) -> Path:
    """A copy of a run as a kill left it: with its first `keep` events besides sessions, and all its files."""
    shutil.copytree(whole, folder)
    events = read_events(whole)
    last = [place for place, event in enumerate(events) if event["event"] != "session"][keep - 1]
    (folder / JOURNAL_FILE).write_bytes(journal_bytes(events[: max(last + 1, 2)]))
    return folder


@pytest.mark.parametrize(("keep", "learned"), [(2, [0, 1, 2]), (3, [0, 1, 2]), (4, [1, 2]), (6, []), (11, [])])
def test_a_killed_run_resumes_and_learns_no_recorded_fit_again(
    models: Path, whole: Path, tmp_path: Path, keep: int, learned: list[int]
) -> None:
    folder = cut(whole, tmp_path / "run", keep)
    observer = Fits()
    evolve(stated(models, tmp_path), observer)
    assert observer.learned == learned
    assert results(folder) == results(whole)


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_experts_answer_again_if_their_answers_are_lost(
    models: Path, whole: Path, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = cut(whole, tmp_path / "run", 3)
    if damage == "missing":
        examples_path(folder, "letters").unlink()
    else:
        examples_path(folder, "letters").write_bytes(b"\0" * 100)
    observer = Fits()
    evolve(stated(models, tmp_path), observer)
    assert "x answers the rows again" in caplog.text
    assert observer.evaluated_numbers[0] == 2  # the expert's result is not recorded twice
    assert results(folder) == results(whole)


@pytest.mark.parametrize("content", [None, b"", b"damaged"])
def test_a_lost_fit_is_one_clear_error(models: Path, whole: Path, tmp_path: Path, content: bytes | None) -> None:
    folder = cut(whole, tmp_path / "run", 7)
    digest = of_kind(read_events(folder), "fit")[1]["digest"]
    path = folder / FILES / f"{digest}.safetensors"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(ModelError) as error:
        evolve(stated(models, tmp_path))
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    assert ("missing" if content is None else "damaged") in str(error.value)


def test_other_settings_are_another_run_but_not_another_width(models: Path, whole: Path, tmp_path: Path) -> None:
    cut(whole, tmp_path / "run", 4)
    with pytest.raises(Exception, match=r"fit.settings.steps: 4 -> 9"):
        evolve(stated(models, tmp_path, fit={**FIT, "steps": 9}))
    with pytest.raises(Exception, match=r"fit.settings.steps: 4 -> None|fit: "):
        evolve(stated(models, tmp_path, fit=None))
    evolve(stated(models, tmp_path, fit={**FIT, "width": 30}))


def test_a_run_can_be_extended_forked_and_exported(models: Path, whole: Path, tmp_path: Path) -> None:
    folder = cut(whole, tmp_path / "run", len(results(whole)))
    extended = evolve(stated(models, tmp_path, generations=5))
    assert extended.generation == 5
    assert len(of_kind(read_events(folder), "fit")) == 3
    recipe, founders = fork(folder, tmp_path / "fork", ["evolution.generations=1"])
    assert recipe.fit is None  # it starts from elites, and would learn the same fits again
    forked = evolve(recipe, founders=founders)
    assert forked.search.space.fits == 0
    recipe, _ = fork(folder, tmp_path / "again", ["fit.steps=3"])
    assert recipe.fit is not None
    candidate = open_run(folder).search.candidate(2)
    assert isinstance(candidate, Genome)
    assert len(dict(reopen_models(open_run(folder), candidate).tensors(candidate))) > 0


def test_a_task_without_an_expert_learns_from_the_best_one(models: Path, tmp_path: Path) -> None:
    recipe = stated(models, tmp_path, generations=0, fit={**FIT, "weights": "even", "scales": "none"})
    tasks = [use.model_copy(update={"expert": None}) for use in recipe.tasks]
    run = evolve(recipe.model_copy(update={"tasks": tasks}))
    for place, task in enumerate(run.tasks):
        scores = [run.scores(number)[place] for number in range(2)]
        assert run.teacher(task) == scores.index(max(scores))


CHILD = """
import sys
from pathlib import Path
from tests.run.test_fits import stated
from cycleqd_merge.session.evolve import evolve
evolve(stated(Path(sys.argv[1]), Path(sys.argv[2]), fit={"steps": 60, "spread_steps": 2, "rows": 3}))
"""


def test_a_run_killed_while_it_learns_a_fit_ends_as_if_it_never_was(models: Path, tmp_path: Path) -> None:
    """The kill comes after some steps of the first fit were saved, and its progress is used."""
    command = [sys.executable, "-c", CHILD, str(models), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    progress = Path(environment["CYCLEQD_CACHE"]) / "fits" / "progress"
    deadline = time.monotonic() + 120
    while not list(progress.glob("*.safetensors")):
        assert time.monotonic() < deadline
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert of_kind(read_events(tmp_path / "run"), "fit") == []
    fit = {"steps": 60, "spread_steps": 2, "rows": 3}
    resumed = evolve(stated(models, tmp_path, fit=fit))
    assert not list(progress.glob("*.safetensors"))
    again = evolve(stated(models, tmp_path / "again", fit=fit))
    assert [event["digest"] for event in resumed.fits.values()] == [event["digest"] for event in again.fits.values()]
    assert results(tmp_path / "run")[1:] == results(tmp_path / "again" / "run")[1:]


def test_a_plan_says_what_the_fits_learn_and_cost(models: Path, tmp_path: Path) -> None:
    recipe = stated(models, tmp_path, fit={**FIT, "scales": "channel"})
    keep = recipe.tasks[1].model_copy(update={"name": "kept", "role": "keep", "expert": None})
    found = plan(recipe.model_copy(update={"tasks": [*recipe.tasks, keep]}))
    assert found.errors == []
    assert found.fit is not None
    assert found.time is not None
    assert (found.fit.fits, found.fit.steps, found.fit.tasks) == (3, 8, ["letters", "digits"])
    assert found.fit.left_out == {"kept": "`role: keep`, no `expert`"}
    assert found.fit.tokens == 8 * FIT["rows"] * (15 + 15)  # a prompt of 14 characters and a choice, a token each
    assert 0 < found.time.fits < found.time.total
    assert found.time.evaluations == 2 + 3 + 3
    console = Console(width=200, file=io.StringIO())
    console.print(plan_report(found))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "Fits: 3, on letters, digits; 8 steps together, about " in text
    assert "Left out of the fits: kept (`role: keep`, no `expert`)" in text


def test_the_journal_holds_no_more_than_the_facts(whole: Path) -> None:
    lines = (whole / JOURNAL_FILE).read_bytes().splitlines()
    assert all(len(line) < 2000 for line in lines if b'"event":"fit"' in line)
    Journal(whole).close()  # its checksums hold
