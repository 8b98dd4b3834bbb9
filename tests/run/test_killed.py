"""A run that is killed repeatedly, at any instant, ends as one that never was."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest

from cycleqd_merge.journal.log import JOURNAL_FILE
from cycleqd_merge.run.state import open_run
from tests.evolution.references import snapshot
from tests.run.synthetic import history, run, run_in_process, synthetic_recipe

GENERATIONS = 60
SECONDS = 0.003
"""Mean length of an evaluation; syncing a line to disk adds its own."""
KILLS = 25
"""Per number in flight."""


@pytest.fixture(scope="module")
def processes() -> Iterator[ForkServerContext]:
    """Fresh processes that have imported what a run needs, and start in milliseconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.run.compiled"])
        first = context.Process(target=os.getpid)
        first.start()
        first.join()
        yield context


def kill_after(
    processes: ForkServerContext, delay: float, folder: Path, in_flight: int, order: int, settings: dict[str, Any]
) -> bool:
    """Resume the run and kill it after `delay` seconds; returns whether it was still running."""
    work = processes.Process(target=run_in_process, args=(folder, GENERATIONS, in_flight, order, SECONDS, settings))
    work.start()
    work.join(delay)
    work.kill()
    work.join()
    assert work.exitcode in (0, -signal.SIGKILL)
    return work.exitcode != 0


@pytest.mark.parametrize("in_flight", [1, 4])
def test_a_run_killed_at_any_instant_ends_as_if_it_never_was(
    processes: ForkServerContext, tmp_path: Path, in_flight: int
) -> None:
    """Run after run, each killed until it is done, 25 kills or more; they hit start-up, replay and evaluations."""
    assert_kills_change_nothing(processes, tmp_path, in_flight, KILLS, {})


@pytest.mark.parametrize(
    "settings",
    [
        {"strategy": {"kind": "random"}},
        {"strategy": {"kind": "cma-es", "population": 7}},
        {"strategy": {"kind": "nsga2", "population": 8}},
        {"strategy": {"kind": "cma-me", "population": 7, "bred": 0.3}, "evolution": {"adaptive": True}},
        {"strategy": {"kind": "bayesian", "bred": 0.2}},
        {"strategy": {"kind": "mergekit"}},
        {"evolution": {"cycling": False}},
        {"evolution": {"mutation": {"kind": "gaussian"}, "sampling": "published"}},
    ],
    ids=str,
)
def test_so_does_every_other_strategy(processes: ForkServerContext, tmp_path: Path, settings: dict[str, Any]) -> None:
    assert_kills_change_nothing(processes, tmp_path, 3, 6, settings)


def assert_kills_change_nothing(
    processes: ForkServerContext, tmp_path: Path, in_flight: int, least: int, settings: dict[str, Any]
) -> None:
    """Kill runs until `least` kills came in their middle; each run ends as the uninterrupted one."""
    whole = run(tmp_path / "whole", synthetic_recipe(GENERATIONS, **settings), in_flight)
    delays = random.Random(in_flight)
    kills, found = 0, set()
    for attempt in range(4 * least):  # a quick run may end before it is killed
        folder = tmp_path / str(attempt)
        longest = 0.2
        while kill_after(processes, delays.uniform(0.0, longest), folder, in_flight, kills, settings):
            kills += 1
            longest *= 1.1  # on a machine so busy that no run gets anywhere, one does in the end
            found.add((folder / JOURNAL_FILE).read_bytes().count(b"\n") if (folder / JOURNAL_FILE).exists() else 0)
        assert history(folder) == history(tmp_path / "whole")
        assert snapshot(open_run(folder).archives) == snapshot(whole.archives)
        if kills >= least and len(found) > least // 2:  # they hit the runs in many places
            return
    raise AssertionError(f"{kills} kills hit {len(found)} places")


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_process_ends_on_request_and_its_run_resumes(
    processes: ForkServerContext, tmp_path: Path, sign: signal.Signals
) -> None:
    work = processes.Process(target=run_in_process, args=(tmp_path / "stopped", GENERATIONS, 4, 0, 0.02, {}))
    work.start()
    assert work.pid is not None
    wait_for_lines(tmp_path / "stopped" / JOURNAL_FILE, 12)
    os.kill(work.pid, sign)
    work.join(60)
    assert work.exitcode == 130
    run(tmp_path / "stopped", synthetic_recipe(GENERATIONS), 4)
    run(tmp_path / "whole", synthetic_recipe(GENERATIONS), 4)
    assert history(tmp_path / "stopped") == history(tmp_path / "whole")


def wait_for_lines(path: Path, lines: int, seconds: float = 20.0) -> None:
    """Wait until a file has this many lines."""
    deadline = time.monotonic() + seconds
    while not path.exists() or path.read_bytes().count(b"\n") < lines:
        assert time.monotonic() < deadline, f"{path} did not reach {lines} lines"
        time.sleep(0.005)


NO_MODELS = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "transformers", "mergekit", "accelerate", "datasets", "peft"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
from pathlib import Path
from tests.run.synthetic import run, synthetic_recipe
run(Path(sys.argv[1]), synthetic_recipe(10), in_flight=2)
"""


def test_the_search_needs_neither_torch_nor_anything_built_on_it(tmp_path: Path) -> None:
    """evolution, journal, recipe and the loop run where no model library is installed, and give the same run."""
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", NO_MODELS, str(tmp_path / "bare")], check=True, cwd=root)
    run(tmp_path / "full", synthetic_recipe(10), in_flight=2)
    assert history(tmp_path / "bare") == history(tmp_path / "full")
