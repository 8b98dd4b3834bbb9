"""AgentBench's database samples against one private server: all at once, and one after another.

    python benchmarks/dbbench.py data_dbbench_standard_dev.jsonl

A scripted model answers at once, so that all of the time is the environment's: a database and a user per sample, the
table, one statement, the digest, and their removal.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from cycleqd_merge.config.tasks import DbbenchTaskConfig
from cycleqd_merge.tasks.check import Scripted
from cycleqd_merge.tasks.database.mariadb import server
from cycleqd_merge.tasks.database.task import Dbbench

SAMPLES = 120


async def together(task: Dbbench) -> float:
    """Score the samples all at once; the mean score."""
    samples = task.samples("search")[:SAMPLES]
    models = [Scripted(task.known_answers(sample)[0].reply) for sample in samples]
    outcomes = await asyncio.gather(*map(task.score, samples, models))
    return sum(outcome.score for outcome in outcomes) / len(outcomes)


async def in_turn(task: Dbbench) -> float:
    """Score the samples one after another; the sum of the scores."""
    samples = task.samples("search")[:SAMPLES]
    return sum([(await task.score(each, Scripted(task.known_answers(each)[0].reply))).score for each in samples])


def main() -> None:
    rows = {"path": str(Path(sys.argv[1]).resolve())}
    messages = [{"role": "user", "content": "{{ description }}"}]
    stated = {"kind": "dbbench", "data": {"search": rows, "heldout": rows}, "messages": messages}
    task = Dbbench(DbbenchTaskConfig.model_validate(stated))
    start = time.perf_counter()
    server()
    print(f"server started in {time.perf_counter() - start:.2f} s")
    asyncio.run(in_turn(task))
    for run in range(3):
        seconds = []
        for way in (together, in_turn):
            start = time.perf_counter()
            asyncio.run(way(task))
            seconds.append(time.perf_counter() - start)
        at_once, turns = seconds
        print(
            f"run {run}: {SAMPLES} samples at once {at_once:.2f} s, in turn {turns:.2f} s, ratio {at_once / turns:.2f}"
        )


if __name__ == "__main__":
    main()
