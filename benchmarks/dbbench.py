"""Time to score AgentBench's database samples on one private server, all at once and one after another.

    python benchmarks/dbbench.py data_dbbench_standard_dev.jsonl

A scripted model answers immediately, so all of the time is the database's: creating a database and a user per sample,
the table, one statement, the digest, and removing them.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from cycleqd_merge.config.tasks import DbbenchTaskConfig
from cycleqd_merge.tasks.check import ScriptedModel
from cycleqd_merge.tasks.database.mariadb import mariadb_server
from cycleqd_merge.tasks.database.task import DbbenchTask

SAMPLES = 120


async def score_at_once(task: DbbenchTask) -> float:
    """Score all samples at once; returns the mean score."""
    samples = task.samples("search")[:SAMPLES]
    models = [ScriptedModel(task.known_answers(sample)[0].reply) for sample in samples]
    outcomes = await asyncio.gather(*map(task.score, samples, models))
    return sum(outcome.score for outcome in outcomes) / len(outcomes)


async def score_in_sequence(task: DbbenchTask) -> float:
    """Score the samples one after another; returns the mean score."""
    samples = task.samples("search")[:SAMPLES]
    return sum([(await task.score(each, ScriptedModel(task.known_answers(each)[0].reply))).score for each in samples])


def main() -> None:
    rows = {"path": str(Path(sys.argv[1]).resolve())}
    messages = [{"role": "user", "content": "{{ description }}"}]
    stated = {"kind": "dbbench", "data": {"search": rows, "heldout": rows}, "messages": messages}
    task = DbbenchTask(DbbenchTaskConfig.model_validate(stated))
    start = time.perf_counter()
    mariadb_server()
    print(f"server started in {time.perf_counter() - start:.2f} s")
    asyncio.run(score_in_sequence(task))
    for run in range(3):
        seconds = []
        for score in (score_at_once, score_in_sequence):
            start = time.perf_counter()
            asyncio.run(score(task))
            seconds.append(time.perf_counter() - start)
        at_once, in_sequence = seconds
        ratio = at_once / in_sequence
        print(
            f"run {run}: {SAMPLES} samples, at once {at_once:.2f} s, in sequence {in_sequence:.2f} s, ratio {ratio:.2f}"
        )


if __name__ == "__main__":
    main()
