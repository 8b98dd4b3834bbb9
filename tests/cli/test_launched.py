"""`accelerate launch` of the main command: its processes share the singular bases, and the first goes on alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from cycleqd_merge.journal.log import of_kind, read_events
from tests.cli.conftest import Models, cycleqd_merge, write_recipe
from tests.merging.processes import group_of_two


def results(run: Path) -> list[tuple[object, object]]:
    return [(event["step"], event["scores"]) for event in of_kind(read_events(run), "result")]


def test_the_first_of_two_processes_ends_the_run_as_one_does(models: Models, tmp_path: Path) -> None:
    settings = {"finish": {"export": ["best-mean"], "heldout": True}, "workers": 2}
    alone = write_recipe(tmp_path / "alone", models)
    assert cycleqd_merge("evolve", alone).code == 0
    together = write_recipe(tmp_path / "together", models, **settings)
    environment = {**os.environ, "CYCLEQD_CACHE": str(tmp_path / "cache"), "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "cycleqd_merge", "evolve", str(together)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**environment, **own},
        )
        for own in group_of_two()
    ]
    ended = [process.communicate(timeout=300) for process in started]
    assert not any(process.returncode for process in started), ended
    assert results(tmp_path / "together" / "run") == results(tmp_path / "alone" / "run")
    exported = json.loads(next((tmp_path / "together" / "run" / "models").glob("*/genome.json")).read_text())
    assert exported["name"] == "best-mean"
    assert list((tmp_path / "cache" / "bases").glob("*/manifest.json"))
