"""`accelerate launch` of `evolve`: its processes share the work on singular bases, and the first continues alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cycleqd_merge.journal.log import JOURNAL_FILE, of_kind, read_events
from tests.cli.conftest import Models, cycleqd_merge, write_recipe
from tests.journal.unsealed import unsealed
from tests.merging.processes import outputs_of_two


def results(run: Path) -> list[tuple[object, object]]:
    return [(event["step"], event["scores"]) for event in of_kind(read_events(run), "result")]


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])  # 2: on Ray, which starts slowly
def test_the_first_of_two_processes_ends_the_run_as_one_does(
    workers: int, models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    settings = {"finish": {"export": ["best-mean"], "heldout": True}, "workers": workers}
    alone = write_recipe(tmp_path / "alone", models)
    assert cycleqd_merge("evolve", alone).code == 0
    together = write_recipe(tmp_path / "together", models, **settings)
    outputs_of_two(["cycleqd_merge", "evolve", str(together)], tmp_path / "cache")
    assert results(tmp_path / "together" / "run") == results(tmp_path / "alone" / "run")
    exported = json.loads(next((tmp_path / "together" / "run" / "models").glob("*/genome.json")).read_text())
    assert exported["name"] == "best-mean"
    assert list((tmp_path / "cache" / "bases").glob("*/manifest.json"))


def test_processes_end_when_the_run_is_finished_by_another_semantics_version(models: Models, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, models)
    assert cycleqd_merge("evolve", recipe).code == 0
    journal = tmp_path / "run" / JOURNAL_FILE
    other = unsealed(journal.read_text()).replace('"engine_semantics":', '"engine_semantics":9')
    assert other != journal.read_text()
    journal.write_text(other)
    outputs_of_two(["cycleqd_merge", "evolve", str(recipe)], tmp_path / "cache")
    assert journal.read_text() == other
