"""The cost of the search itself: generations per second of ask, tell and journal on a synthetic task, the journal's
size, and the time to open the run again.

    python benchmarks/strategy.py [--generations 1200] [--in-flight 2] [--folder /dev/shm]

The journal is synced to disk once per generation, so the disk limits the speed: `bare append` writes the same lines and
does nothing else. Generations per second of CPU time exclude waiting for the disk and for other processes.
"""

from __future__ import annotations

import argparse
import gc
import math
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cycleqd_merge.config.recipe import Recipe
from cycleqd_merge.evaluation.pools.pool import Finished
from cycleqd_merge.evaluation.worker import Evaluation
from cycleqd_merge.evolution.genome import Genome
from cycleqd_merge.fitting.job import FitJob, FitResult
from cycleqd_merge.journal.log import JOURNAL_FILE, Event, Journal
from cycleqd_merge.run.loop import evaluate_generations, resume_journal
from cycleqd_merge.run.observer import Observer
from cycleqd_merge.run.state import Run, open_run
from cycleqd_merge.strategies.protocol import Proposal
from cycleqd_merge.tasks.protocol import Split

EXPERTS = ("sql", "bash", "math")
STEP = 100


@dataclass(frozen=True)
class Mark:
    """A point of a run: the generation, and the seconds since the start without those spent scoring."""

    generation: int
    wall: float
    cpu: float
    elites: int = 0
    mutations: float = 0.0


class InstantPool:
    """Scores a genome by a formula of its coefficients and mutations, and counts the seconds spent on it."""

    def __init__(self) -> None:
        self._queue: deque[Proposal] = deque()
        self.wall = self.cpu = 0.0

    def submit(
        self,
        proposal: Proposal,
        rows: Split = "search",
        known: Mapping[str, float] | None = None,
        record: Collection[str] = (),
    ) -> None:
        self._queue.append(proposal)

    def next(self) -> Finished:
        wall, cpu = time.perf_counter(), time.process_time()
        proposal = self._queue.popleft()
        assert isinstance(proposal.candidate, Genome)
        evaluation = Evaluation({}, score(proposal.candidate), 0.123, 4.567)
        self.wall += time.perf_counter() - wall
        self.cpu += time.process_time() - cpu
        return Finished(proposal.number, evaluation)

    def fit(self, jobs: Sequence[FitJob], received: Callable[[FitResult], None]) -> None:
        raise AssertionError("no fit is learned here")

    def close(self) -> None:
        self._queue.clear()


def score(genome: Genome) -> tuple[float, ...]:
    """Each task prefers its own expert, loses a little by the others, and every mutation shifts its score a little."""
    held = genome.coefficients.mean(axis=1)
    shares = genome.shares[:, 0].tolist()
    scores = []
    for task in range(len(EXPERTS)):
        luck = sum(math.sin(m.seed * (task + 1)) * share for m, share in zip(genome.mutations, shares, strict=True))
        distance = (held[task] - 1.0) ** 2 + 0.2 * float(held.sum() - 1.0) ** 2
        scores.append(min(1.0, 0.8 * math.exp(-distance + 0.05 * luck)))
    return tuple(scores)


class Clock(Observer):
    """An observer that records a mark every hundred generations."""

    def __init__(self, pool: InstantPool) -> None:
        self._pool = pool
        self.marks: list[Mark] = []

    def started(self, run: Run) -> None:
        """See `Observer`."""
        self._mark(run)

    def evaluated(self, run: Run, event: Event) -> None:
        """See `Observer`."""
        if event["number"] >= len(EXPERTS) - 1 and run.generation % STEP == 0:
            self._mark(run)

    def _mark(self, run: Run) -> None:
        wall, cpu = time.perf_counter() - self._pool.wall, time.process_time() - self._pool.cpu
        elites = {elite.number for archive in run.archives for elite in archive.elites()}
        mutations = sum(len(run.search.genome(number).mutations) for number in elites)
        self.marks.append(Mark(run.generation, wall, cpu, len(elites), mutations / max(len(elites), 1)))


def synthetic_run(folder: Path, generations: int, in_flight: int) -> list[Mark]:
    """A whole run in `folder`: marks at the start, after the experts, and every hundred generations."""
    recipe = Recipe.model_validate(
        {
            "base": "base",
            "experts": {name: name for name in EXPERTS},
            "tasks": [{"task": name, "expert": name} for name in EXPERTS],
            "evolution": {"generations": generations},
            "output": str(folder),
        }
    )
    start = {"event": "start", "format": 1, "groups": ["all"], "in_flight": in_flight}
    session = {
        "event": "session",
        "recipe": recipe.model_dump(mode="json", exclude_unset=True),
        "folder": str(folder),
        "bases": {},
    }
    journal = Journal(folder)
    try:
        pool = InstantPool()
        clock = Clock(pool)
        evaluate_generations(journal, resume_journal(journal, start, session), pool, clock)
    finally:
        journal.close()
    return clock.marks


def bare_appends(lines: list[bytes], folder: Path) -> float:
    """Appends per second when `lines` are only written and synced."""
    with (folder / "bare").open("ab") as file:
        start = time.perf_counter()
        for line in lines:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        return len(lines) / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generations", type=int, default=1200)
    parser.add_argument("--in-flight", type=int, default=2)
    parser.add_argument("--folder", help="folder for the journal; by default the system's temporary folder")
    options = parser.parse_args()
    console = Console(width=100)
    gc.collect()
    gc.freeze()  # otherwise the first hundred generations pay for a collection of everything imported
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary) / "run"
        marks = synthetic_run(folder, options.generations, options.in_flight)
        table = Table(title=f"ask + tell + journal, {options.in_flight} in flight, journal in {temporary}")
        for heading in ("generations", "per second", "per second of CPU time", "elites", "mutations per elite"):
            table.add_column(heading, justify="right")
        for since, until in pairwise(marks[1:]):
            done = until.generation - since.generation
            table.add_row(
                f"{since.generation + 1}-{until.generation}",
                f"{done / (until.wall - since.wall):,.0f}",
                f"{done / (until.cpu - since.cpu):,.0f}",
                str(until.elites),
                f"{until.mutations:.0f}",
            )
        console.print(table)
        size = (folder / JOURNAL_FILE).stat().st_size
        console.print(f"journal: {size / 1e6:.2f} MB, {size / options.generations:.0f} bytes per generation")
        bare = bare_appends((folder / JOURNAL_FILE).read_bytes().splitlines(keepends=True), folder)
        console.print(f"bare append of the same lines, synced: {bare:,.0f} per second")
        wall, cpu = time.perf_counter(), time.process_time()
        run = open_run(folder)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        console.print(f"open_run: {wall:.2f} s ({cpu:.2f} s of CPU time) for {run.generation} generations")


if __name__ == "__main__":
    main()
