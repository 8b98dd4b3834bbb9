"""A run keeps the version of its preset, whatever version is the newest when it is resumed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cycleqd_merge.config.presets import PRESETS
from cycleqd_merge.journal.log import JOURNAL_FILE, of_kind, read_events
from tests.cli.conftest import Models, cycleqd_merge, write_recipe
from tests.journal.unsealed import unsealed
from tests.run.synthetic import history

SECOND = {"strategy": {"kind": "random"}, "evolution": {"groups": {"layers": 1}, "sigma": 0.5}}
GROUPS = [{"layers": None, "blocks": 3, "modules": True}, {"layers": 1, "blocks": None, "modules": False}]
"""Those of version 1 and of version 2."""


@pytest.fixture(scope="module", autouse=True)
def _first_version() -> Iterator[None]:
    """Only version 1 of `recommended` exists."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(PRESETS, "recommended@2")
        yield


@pytest.fixture(scope="module")
def recipe(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe file that names the preset without a version."""
    folder = tmp_path_factory.mktemp("preset")
    return write_recipe(folder, models, evolution={"preset": "recommended", "generations": 7, "bins": 10, "seed": 1})


@pytest.fixture(scope="module")
def whole(recipe: Path) -> Path:
    """A run that was never interrupted."""
    assert cycleqd_merge("evolve", recipe).code == 0
    return recipe.parent / "run"


@pytest.fixture(params=["recorded", "not recorded"])
def begun(request: pytest.FixtureRequest, recipe: Path, tmp_path: Path) -> Path:
    """A run of four generations; what is not recorded is the preset's version, as in journals of version 0.1.0."""
    out = tmp_path / "run"
    assert cycleqd_merge("evolve", recipe, "--output", out, "--generations", 4).code == 0
    text = unsealed((out / JOURNAL_FILE).read_text())
    assert text.count('"preset":"recommended@1"') == 1
    if request.param == "not recorded":
        (out / JOURNAL_FILE).write_text(text.replace('"preset":"recommended@1"', '"preset":"recommended"'))
    return out


@pytest.fixture
def second(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the run began, a new version was published."""
    monkeypatch.setitem(PRESETS, "recommended@2", SECOND)


def presets(run: Path) -> list[str]:
    return [session["recipe"]["evolution"]["preset"] for session in of_kind(read_events(run), "session")]


def resumed(run: Path) -> list[dict[str, object]]:
    """The run's history without confirmations: a run that stops early scores its elites again earlier."""
    return [event for event in history(run) if event["event"] != "confirm"]


@pytest.mark.usefixtures("second")
def test_a_run_resumed_from_its_recipe_file_keeps_its_version(recipe: Path, whole: Path, begun: Path) -> None:
    assert cycleqd_merge("evolve", recipe, "--output", begun).code == 0
    assert resumed(begun) == resumed(whole)
    assert presets(begun)[1:] == ["recommended@1"]


@pytest.mark.usefixtures("second")
def test_a_run_resumed_from_its_directory_keeps_its_version(whole: Path, begun: Path) -> None:
    assert cycleqd_merge("show", begun).code == 0
    assert cycleqd_merge("evolve", begun, "--generations", 7).code == 0
    assert resumed(begun) == resumed(whole)
    assert presets(begun)[1:] == ["recommended@1"]


@pytest.mark.usefixtures("second")
def test_plan_of_a_run_is_of_its_version(recipe: Path, begun: Path, tmp_path: Path) -> None:
    old, new = (
        cycleqd_merge("plan", recipe, "--output", out, "--no-measure", "--json") for out in (begun, tmp_path / "new")
    )
    assert (old.code, old.json["errors"], new.code) == (0, [], 0)
    start, *_ = read_events(begun)
    assert list(old.json["groups"]) == start["groups"] != list(new.json["groups"])


@pytest.mark.usefixtures("second")
def test_a_new_run_takes_the_newest_version(recipe: Path, begun: Path, tmp_path: Path) -> None:
    for arguments in (("--output", tmp_path / "new"), ("--output", begun, "--fresh")):
        assert cycleqd_merge("evolve", recipe, "--generations", 1, *arguments).code == 0
    for run in (tmp_path / "new", begun.with_name("run-2")):
        start, *_ = read_events(run)
        assert (start["strategy"]["kind"], start["evolution"]["groups"]) == ("random", GROUPS[1])
        assert "preset" not in start["evolution"]
        assert presets(run) == ["recommended@2"]
    assert read_events(begun)[0]["evolution"]["groups"] == GROUPS[0]


@pytest.mark.usefixtures("second")
def test_a_version_that_is_stated_counts(recipe: Path, begun: Path, tmp_path: Path) -> None:
    answer = cycleqd_merge("evolve", recipe, "--output", begun, "--set", "evolution.preset=recommended@2")
    assert answer.code == 2
    assert "strategy.kind: 'bayesian' -> 'random'" in answer.err
    one = ("--set", "evolution.preset=recommended@1", "--generations", 1, "--output", tmp_path / "one")
    assert cycleqd_merge("evolve", recipe, *one).code == 0
    assert presets(tmp_path / "one") == ["recommended@1"]


@pytest.mark.usefixtures("second")
def test_a_fork_keeps_what_the_run_had(begun: Path, tmp_path: Path) -> None:
    assert cycleqd_merge("fork", begun, tmp_path / "fork", "--set", "evolution.generations=1").code == 0
    start, *_ = read_events(tmp_path / "fork")
    assert (start["strategy"]["kind"], start["evolution"]["groups"]) == ("bayesian", GROUPS[0])
    stated = json.loads((tmp_path / "fork" / JOURNAL_FILE).read_text().splitlines()[1])["recipe"]
    assert stated["evolution"]["warm_start"] == [0.3, 0.5, 0.7, 1.0]
    assert stated["strategy"] == {"kind": "bayesian"}


@pytest.mark.usefixtures("second")
def test_a_fork_with_a_different_preset_has_its_strategy_and_keys(begun: Path, tmp_path: Path) -> None:
    settings = ("evolution.generations=1", "evolution.preset=paper", f"evolution.groups={json.dumps(GROUPS[0])}")
    options = [option for setting in settings for option in ("--set", setting)]
    assert cycleqd_merge("fork", begun, tmp_path / "fork", *options).code == 0
    start, session, *_ = read_events(tmp_path / "fork")
    assert start["strategy"]["kind"] == "cycleqd"
    assert session["recipe"]["evolution"]["preset"] == "paper@1"
    assert "warm_start" not in session["recipe"]["evolution"]
