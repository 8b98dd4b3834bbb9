"""Runs of version 0.1.0 open, show, replay and export as they did then, bit for bit; see tests/data/frozen/README.md.

Since engine and task semantics 1 they are not extended: `fork --rescore` continues them. With the versions set back,
new proposals and scores are still the same. Files other than weights are copies of the base's.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cycleqd_merge.evaluation.engines.engine import SEMANTICS
from cycleqd_merge.tasks.generate import GenerateTask
from tests.cli.conftest import cycleqd_merge
from tests.frozen.records import (
    OWN_FILES,
    PROJECTIONS,
    arithmetic,
    exported,
    heldout,
    outcome,
    portable,
    restored,
    untimed,
    versions,
)
from tests.journal.unsealed import unsealed

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data" / "frozen"
BASE = ROOT / "recipes" / "quickstart" / "models" / "base"
RUNS = ("quickstart", "recommended-0", "recommended-1", "cma-es")
MORE = 12
"""Generations of the extension."""
ROUNDING = 2e-3
"""Of a tensor's norm: bfloat16 rounds to 2**-9, and other linear algebra changes few of a tensor's values."""
STEP = 1e-4
"""Of a coefficient: surrogates and CMA-ES amplify the rounding of linear algebra."""


@pytest.fixture(scope="session")
def made_on() -> dict[str, Any]:
    recorded: dict[str, Any] = json.loads((DATA / "made_on.json").read_text())
    return recorded


@pytest.fixture(scope="session")
def exact(made_on: dict[str, Any]) -> bool:
    """Whether this machine computes as the one that made the runs, to the last bit."""
    now = arithmetic(ROOT / "recipes" / "quickstart" / "models")
    differing = [part for part, digest in made_on["arithmetic"].items() if digest != now[part]]
    if differing:
        warnings.warn(
            f"linear algebra rounds otherwise here than where the runs were made ({', '.join(differing)}): weights and "
            "new scores are compared within rounding",
            stacklevel=1,
        )
    return not differing


@pytest.fixture
def engine_of_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets the semantics versions of engine and tasks to those of the runs."""
    monkeypatch.setitem(SEMANTICS, "transformers", 0)
    monkeypatch.setattr(GenerateTask, "semantics", 0)


@pytest.fixture(params=RUNS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def run(name: str, tmp_path: Path) -> Path:
    """A copy of the run with this machine's paths."""
    folder = tmp_path / "run"
    folder.mkdir()
    journal = folder / "journal.jsonl"
    journal.write_text(restored((DATA / name / "journal.jsonl").read_text(), ROOT, folder))
    return folder


def kept(name: str, file: str) -> Any:
    return json.loads((DATA / name / file).read_text())


def printed(run: Path, *arguments: object) -> Any:
    """The JSON output of a command, without this machine's paths."""
    answer = cycleqd_merge(*arguments, "--json")
    assert (answer.code, answer.err) == (0, "")
    return json.loads(portable(answer.out, ROOT, run))


def test_it_opens_and_shows(name: str, run: Path) -> None:
    before = (run / "journal.jsonl").read_bytes()
    assert printed(run, "show", run) == kept(name, "show.json")
    assert printed(run, "show", run, "--elite", "best-mean") == kept(name, "best-mean.json")
    assert (run / "journal.jsonl").read_bytes() == before


@pytest.mark.parametrize("model", ["best-mean", "aggregate"])
def test_it_exports(name: str, run: Path, model: str, tmp_path: Path, made_on: dict[str, Any], exact: bool) -> None:
    answer = cycleqd_merge("export", run, model, tmp_path / "model")
    assert answer.code == 0, answer.err
    found, wanted = exported(tmp_path / "model", ROOT, run), kept(name, "exports.json")[model]
    assert found["files"].keys() == wanted["files"].keys()
    if exact:
        assert found["tensors"] == wanted["tensors"]
    assert_close(found["tensors"], wanted["tensors"])
    weights = {"model.safetensors"} if exact and versions() == made_on["versions"] else set()
    for file in (*OWN_FILES, *weights):
        if exact or file != "genome.json":
            assert found["files"][file] == wanted["files"][file], file
    for file in found["files"].keys() - {*OWN_FILES, "model.safetensors"}:
        assert (tmp_path / "model" / file).read_bytes() == (BASE / file).read_bytes(), file


def assert_close(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Tensors are equal within the rounding of their values."""
    assert {key: tensor["kind"] for key, tensor in found.items()} == {
        key: tensor["kind"] for key, tensor in wanted.items()
    }
    for key, tensor in wanted.items():
        most = ROUNDING * tensor["norm"]
        assert len(tensor["projections"]) == PROJECTIONS
        for one, other in zip(found[key]["projections"], tensor["projections"], strict=True):
            assert math.isclose(one, other, rel_tol=0, abs_tol=most), key


@pytest.mark.parametrize("name", ["cma-es"])
def test_extending_it_is_refused_and_a_fork_continues_it(name: str, run: Path, tmp_path: Path) -> None:
    journal = (run / "journal.jsonl").read_bytes()
    generations = kept(name, "show.json")["generation"]
    answer = cycleqd_merge("evolve", run, "--generations", generations + MORE)
    assert answer.code == 2
    assert f"semantics of engine transformers: 0 -> {SEMANTICS['transformers']})" in answer.err
    assert f"(semantics of task reverse: 0 -> {GenerateTask.semantics}, " in answer.err
    assert answer.err.endswith(f"cycleqd-merge fork {run} NEW --rescore\n")
    assert (run / "journal.jsonl").read_bytes() == journal
    fork = tmp_path / "fork"
    assert cycleqd_merge("fork", run, fork, "--rescore", "--set", "evolution.generations=1").code == 0
    forked = [json.loads(line) for line in (fork / "journal.jsonl").read_text().splitlines()]
    recorded = {event["number"]: event["scores"] for event in events(journal.decode()) if event["event"] == "result"}
    scores = [event["scores"] for event in forked if event["event"] == "result"]
    founders = [each["from"] for each in forked[0]["seeds"]]
    experts = len(forked[0]["experts"])
    again = zip(scores[experts:], founders, strict=False)
    assert all(found == pytest.approx(recorded[number], abs=0.1) for found, number in again)
    assert len(scores) == experts + len(founders) + 1


@pytest.mark.usefixtures("engine_of_then")
def test_it_extends(name: str, run: Path, exact: bool, caplog: pytest.LogCaptureFixture) -> None:
    generations = kept(name, "show.json")["generation"] + MORE
    assert_extends(name, run, exact, "evolve", run, "--generations", generations)
    if exact:
        assert not [record for record in caplog.records if record.name.startswith("cycleqd_merge")]
        assert untimed(printed(run, "show", run)) == kept(name, "extended.json")


@pytest.mark.usefixtures("engine_of_then")
@pytest.mark.parametrize("name", ["recommended-1"])
def test_it_extends_from_its_recipe_file_when_its_preset_has_a_new_version(
    name: str, run: Path, exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    presets = pytest.importorskip("cycleqd_merge.config.presets", reason="version 0.1.0 has no versions of presets")
    newer = {"strategy": {"kind": "random"}, "evolution": {"groups": {"layers": 1}, "sigma": 0.5}}
    monkeypatch.setitem(presets.PRESETS, "recommended@2", newer)
    stated = {"preset": "recommended", "generations": 30 + MORE, "seed": 1}
    settings = (f"evolution={json.dumps(stated)}", "finish={}", f"output={json.dumps(str(run))}")
    options = [option for setting in settings for option in ("--set", setting)]
    assert_extends(name, run, exact, "evolve", ROOT / "recipes" / "quickstart.yaml", *options)


def assert_extends(name: str, run: Path, exact: bool, *command: object) -> None:
    """The command extends the run as version 0.1.0 did."""
    journal = run / "journal.jsonl"
    before = journal.read_text()
    answer = cycleqd_merge(*command)
    assert answer.code == 0, answer.err
    assert journal.read_text().startswith(before)
    found = events(journal.read_text().removeprefix(before))
    wanted = events((DATA / name / "extension.jsonl").read_text())
    if exact:
        assert [outcome(event) for event in found] == [outcome(event) for event in wanted]
    else:
        assert_alike(found, wanted)


def events(lines: str) -> list[dict[str, Any]]:
    """A journal's events but the sessions, whose recipes may be written otherwise; without the lines' checksums."""
    every = map(json.loads, unsealed(lines).splitlines())
    return [event for event in every if event["event"] != "session"]


def assert_alike(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    """As many results, none failed; up to the first that differs, the same, and there by few rows at most.

    The first step follows from recorded scores alone, so it is the same within rounding. What follows a score that
    differs may be anything: strategies choose by scores.
    """
    results = [[event for event in every if event["event"] == "result"] for every in (found, wanted)]
    assert [len(every) for every in results] == [MORE, MORE]
    assert all(event["scores"] is not None for event in results[0])
    assert_near(results[0][0]["step"], results[1][0]["step"])
    for one, other in zip(*results, strict=True):
        if outcome(one) != outcome(other):
            if one["step"] == other["step"]:
                assert one["scores"] == pytest.approx(other["scores"], abs=0.1)
            return


def assert_near(found: Any, wanted: Any) -> None:
    """JSON values are equal, and numbers with a fraction equal within rounding."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for key, value in wanted.items():
            assert_near(found[key], value)
    elif isinstance(wanted, list):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_near(one, other)
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, abs=STEP)
    else:
        assert found == wanted


@pytest.mark.parametrize("name", ["quickstart"])
def test_its_heldout_scores(name: str, run: Path, exact: bool) -> None:
    found, wanted = heldout(printed(run, "evaluate", run)), kept(name, "heldout.json")
    if exact:
        assert found == wanted
    assert list(found) == list(wanted)
    for model, results in wanted.items():
        assert {task: each["score"] for task, each in found[model].items()} == pytest.approx(
            {task: each["score"] for task, each in results.items()}, abs=0.05
        )


def test_nothing_kept_names_a_machine() -> None:
    for path in DATA.glob("*/*"):
        absolute = [part for part in path.read_text().split('"') if part.startswith("/")]
        assert not absolute, path
