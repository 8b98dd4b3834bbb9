"""`plan`: its exit codes, its report and its JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cycleqd_merge.preflight import estimate
from tests.cli.conftest import CliRun, Models, cycleqd_merge, write_recipe


@pytest.fixture(autouse=True)
def _measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "_SETTLED", 0.0)


def test_a_good_recipe_is_reported_and_exits_with_0(models: Models, tmp_path: Path) -> None:
    answer = cycleqd_merge("plan", write_recipe(tmp_path, models))
    assert (answer.code, answer.err) == (0, "")
    for part in ("Models", str(models.base), "vowels", "Cells: vowels 10, letters 10", "one evaluation", "the run"):
        assert part in answer.out
    assert not (tmp_path / "run").exists()


def test_every_error_is_reported_in_a_line_of_its_own(models: Models, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, models)
    stated = json.loads(recipe.read_text())
    stated["tasks"].append({**stated["tasks"][1], "name": "more"})
    recipe.write_text(json.dumps(stated))
    settings = ("tasks.0.task=gone.yaml", f"experts.first={json.dumps(str(tmp_path / 'absent'))}")
    bins = ("evolution.bins=2000",)
    answer = cycleqd_merge("plan", recipe, *(part for text in settings + bins for part in ("--set", text)))
    assert answer.code == 2
    lines = answer.err.splitlines()
    assert [line.split(":")[1].strip() for line in lines] == [
        "evolution.bins",
        f"task '{tmp_path / 'gone.yaml'}'",
        f"model {tmp_path / 'absent'}",
    ]
    assert all(line.startswith("error: ") for line in lines)
    assert "Traceback" not in answer.err + answer.out


def test_json_contains_the_estimates(models: Models, tmp_path: Path) -> None:
    answer = cycleqd_merge("plan", write_recipe(tmp_path, models), "--json", "--generations", 20)
    assert answer.code == 0
    assert answer.json["errors"] == []
    assert answer.json["time"]["evaluations"] == 22
    assert answer.json["memory"][0]["measured"]


def test_json_contains_the_errors_too(models: Models, tmp_path: Path) -> None:
    answer = cycleqd_merge("plan", write_recipe(tmp_path, models), "--json", "--set", "tasks.0.task=gone.yaml")
    assert answer.code == 2
    assert f"task '{tmp_path / 'gone.yaml'}'" in answer.json["errors"][0]
    assert answer.json["faults"] == answer.json["errors"]  # the key of version 0.1
    assert answer.json["time"] is None


def test_nothing_is_evaluated_without_measuring(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate.Worker, "evaluate", lambda *_: pytest.fail("a model was evaluated"))
    answer = cycleqd_merge("plan", write_recipe(tmp_path, models), "--no-measure")
    assert answer.code == 0
    assert "lower bound, not measured" in answer.out
    assert "one evaluation" not in answer.out


def test_a_run_directory_can_be_planned(finished: CliRun) -> None:
    answer = cycleqd_merge("plan", finished.folder, "--generations", 9, "--json")
    assert answer.code == 0
    assert answer.json["time"]["evaluations"] == 5
