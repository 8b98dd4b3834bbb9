"""Time to score AgentBench's database samples with `database: sqlite`; run it on two versions for their ratio.

    python benchmarks/sqlite.py data_dbbench_standard_dev.jsonl

A scripted model answers immediately, so all of the time is the database's. Before statements ran in child processes,
360 samples took 0.57 to 0.66 s on two idle cores; since then 0.63 to 0.74 s. All processes together take more CPU time
(0.9 s instead of 0.3 s), so that the difference grows on a busy machine.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from cycleqd_merge.config.tasks import DbbenchTaskConfig
from cycleqd_merge.tasks.check import ScriptedModel
from cycleqd_merge.tasks.database.task import DbbenchTask


async def score(task: DbbenchTask) -> float:
    """Score the gold answers of all samples at once; returns the number of right ones."""
    samples = task.samples("search")
    models = [ScriptedModel(task.known_answers(sample)[0].reply) for sample in samples]
    return sum(outcome.score for outcome in await asyncio.gather(*map(task.score, samples, models)))


def main() -> None:
    rows = {"path": str(Path(sys.argv[1]).resolve())}
    messages = [{"role": "user", "content": "{{ description }}"}]
    stated = {"kind": "dbbench", "database": "sqlite", "data": {"search": rows, "heldout": rows}, "messages": messages}
    task = DbbenchTask(DbbenchTaskConfig.model_validate(stated))
    for run in range(5):
        start = time.perf_counter()
        right = asyncio.run(score(task))
        seconds = time.perf_counter() - start
        print(f"run {run}: {len(task.samples('search'))} samples, {right:.0f} right, {seconds:.2f} s")


if __name__ == "__main__":
    main()
