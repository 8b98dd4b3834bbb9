"""Time of the paper's three tasks, one by one and all at once, with a scripted model that answers immediately.

    export AGENTBENCH_OS=os.json AGENTBENCH_DB=file:///path/to/data_dbbench_standard_dev.jsonl
    python benchmarks/mixed.py MbppPlus.jsonl [--repeats 3] [--boxes 1]

All of the time is spent in sandboxes and databases. If one task alone leaves cores idle, all tasks together take little
more time than the slowest of them; if each keeps all cores busy, they take the sum. `--boxes` sets the number of
sandboxes that each task may use at once, and so decides which of the two happens.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import psutil
from rich.console import Console
from rich.table import Table

from cycleqd_merge.config.loading import load_task
from cycleqd_merge.config.recipe import TaskConfig
from cycleqd_merge.sandbox.slots import Slots
from cycleqd_merge.tasks.check import ScriptedModel
from cycleqd_merge.tasks.code.task import CodeTask
from cycleqd_merge.tasks.os_interaction.task import OsInteractionTask
from cycleqd_merge.tasks.protocol import Checkable, Outcome, Sample
from cycleqd_merge.tasks.suite import SuiteTask, open_task, require_environments


def opened(problems: Path, boxes: int | None) -> dict[str, SuiteTask]:
    """The shipped tasks, with MBPP's rows from a file in EvalPlus's format. boxes: overrides each task's own number."""
    mbpp = load_task(TaskConfig(task="mbpp-plus")).model_dump(mode="json", exclude_unset=True)
    mbpp["data"] = {"rows": {"path": str(problems.resolve())}}
    uses = [TaskConfig(task=mbpp, name="mbpp-plus"), TaskConfig(task="agentbench-os"), TaskConfig(task="agentbench-db")]
    suite = tuple(open_task(use, 0.0) for use in uses)
    require_environments(suite)
    for task in suite:
        if boxes is not None and isinstance(task.task, CodeTask | OsInteractionTask):
            task.task._slots = Slots(boxes)
    return {task.name: task for task in suite}


async def outcomes(tasks: Sequence[SuiteTask]) -> list[Outcome]:
    """The outcomes of a model that knows all answers, for all samples of some tasks concurrently."""

    async def one(task: SuiteTask, sample: Sample) -> Outcome:
        assert isinstance(task.task, Checkable)
        (gold,) = (answer for answer in task.task.known_answers(sample) if answer.name == "gold")
        return await task.task.score(sample, ScriptedModel(gold.reply))

    return await asyncio.gather(*(one(task, sample) for task in tasks for sample in task.samples("search")))


def measured(*tasks: SuiteTask) -> tuple[float, float]:
    """Seconds until all samples are scored, and the share of that in which the host's cores were busy."""
    start, idle = time.perf_counter(), psutil.cpu_times().idle
    scored = asyncio.run(outcomes(tasks))
    seconds = time.perf_counter() - start
    assert sum(outcome.score for outcome in scored) > 0.95 * len(scored)
    return seconds, 1 - (psutil.cpu_times().idle - idle) / (seconds * (os.cpu_count() or 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problems", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--boxes", type=int, help="number of sandboxes that a task may use at once")
    options = parser.parse_args()
    suite = opened(options.problems, options.boxes)
    ways = {name: [task] for name, task in suite.items()} | {"all at once": list(suite.values())}
    for task in suite.values():
        measured(task)  # computes expected values and starts the server, once for all runs
    runs = [{way: measured(*tasks) for way, tasks in ways.items()} for _ in range(options.repeats)]  # alternating
    seconds = {way: median(run[way][0] for run in runs) for way in ways}
    table = Table("tasks", "samples", "median seconds", "all runs", "cores busy")
    for way, tasks in ways.items():
        count = sum(len(task.samples("search")) for task in tasks)
        each = " ".join(f"{run[way][0]:.1f}" for run in runs)
        table.add_row(way, str(count), f"{seconds[way]:.1f}", each, f"{median(run[way][1] for run in runs):.0%}")
    console = Console(width=100)
    console.print(table)
    together, alone = seconds.pop("all at once"), seconds.values()
    console.print(f"all at once: {together / max(alone):.2f} of the slowest, {together / sum(alone):.2f} of the sum")


if __name__ == "__main__":
    main()
